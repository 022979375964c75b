"""Folders of CaBRNet as models of protokern: the same logits for the same images."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from protokern.errors import CheckpointError, MissingPackageError
from protokern.interop import load_released

from . import cabrnet_programs as programs
from .comparing import CLASSES, MEAN, SIZE, STD, Case, check_same, scores
from .released_programs import SmallResNet, settle

ADD_ON: dict[str, list[tuple[str, nn.Module]]] = {
    "regular": [
        ("conv1", nn.Conv2d(512, 16, 1)),
        ("r", nn.ReLU()),
        ("conv2", nn.Conv2d(16, 16, 1)),
        ("s", nn.Sigmoid()),
    ],
    "single": [("conv1", nn.Conv2d(512, 16, 1)), ("sigmoid1", nn.Sigmoid())],
    "no bias": [("conv1", nn.Conv2d(512, 16, 1, bias=False)), ("sigmoid1", nn.Sigmoid())],
    "linear": [("conv1", nn.Conv2d(512, 16, 1))],
}


class CabrnetCase(NamedTuple):
    name: str
    add_on: str | None
    classifier: Callable[[], nn.Module]
    similarity: str
    ours: Callable[[Any], Tensor] = lambda output: output.logits
    strides: tuple[int, ...] = (1, 2, 2, 2)


CABRNET = {
    "ProtoPNet": CabrnetCase(
        "ProtoPNet", "regular", lambda: programs.ProtoPNetClassifier(CLASSES, 16, 2), "LegacyProtoPNetSimilarity"
    ),
    "cosine": CabrnetCase(
        "ProtoPNet", "linear", lambda: programs.ProtoPNetClassifier(CLASSES, 16, 2, cosine=True), "CosineSimilarity"
    ),
    "ProtoPool": CabrnetCase(
        "ProtoPool", "single", lambda: programs.ProtoPoolClassifier(CLASSES, 16, 9, 3), "ProtoPNetSimilarity"
    ),
    "ProtoTree": CabrnetCase(
        "ProtoTree",
        "no bias",
        lambda: programs.ProtoTreeClassifier(CLASSES, 16, 3),
        "ProtoTreeSimilarity",
        lambda output: output.logits.exp(),
    ),
    "PIPNet": CabrnetCase(
        "PIPNet", None, lambda: programs.PIPNetClassifier(CLASSES, 512), "None", scores, (1, 2, 2, 1)
    ),
}


def write_cabrnet(folder: Path, case: CabrnetCase) -> Any:
    """A folder as CaBRNet saves it, with a ResNet-18."""
    layers = nn.Sequential()
    for name, layer in ADD_ON[case.add_on] if case.add_on else ():
        layers.add_module(name, layer)
    extractor = programs.Extractor(SmallResNet((2, 2, 2, 2), case.strides), layers if case.add_on else None)
    kinds = {"ProtoTree": programs.TreeModel, "PIPNet": programs.OwnChannels}
    kind = kinds.get(case.name, programs.CaBRNet)
    net = settle(kind(extractor, case.classifier()))
    torch.save(net.state_dict(), folder / "model_state.pth")
    add_on = {name: {"type": type(layer).__name__} for name, layer in layers.named_children()}
    backbone: dict[str, Any] = {"arch": "resnet18", "weights": None}
    if case.add_on is None:
        backbone["postprocess"] = {"stride_divider": {"ratio": 2, "min_channels": 200}}
    arch = {
        "top_arch": {"module": "cabrnet", "name": case.name},
        "extractor": {"backbone": backbone, "convnet": {"source_layer": "layer4", "add_on": add_on or None}},
        "similarity": {"name": case.similarity},
        "classifier": {"params": {"num_classes": CLASSES}},
    }
    (folder / "model_arch.yml").write_text(json.dumps(arch))  # JSON is YAML
    normalise = {"type": "Normalize", "params": {"mean": MEAN.flatten().tolist(), "std": STD.flatten().tolist()}}
    transform = {"resize": {"type": "Resize", "params": {"size": [SIZE, SIZE]}}, "normalize": normalise}
    (folder / "dataset.yml").write_text(json.dumps({"test_set": {"params": {"transform": transform}}}))
    (folder / "state.pickle").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # must never be opened
    return net


@pytest.mark.parametrize("name", CABRNET)
def test_folders_of_cabrnet_give_its_answers(tmp_path: Path, name: str) -> None:
    case = CABRNET[name]
    released = write_cabrnet(tmp_path, case)
    net = load_released(tmp_path)
    assert net.config.model.backbone == ("resnet18" if case.add_on else "resnet18-stride16")
    assert net.config.data.image_size == SIZE
    check_same(net, released, Case(lambda: released, "", lambda net, x: net(x), case.ours))


def test_prototypes_that_cabrnet_pruned_are_left_out_with_their_sources(tmp_path: Path) -> None:
    case = CABRNET["ProtoPNet"]
    released = write_cabrnet(tmp_path, case)
    released.classifier.prune([0, 5])
    torch.save(released.state_dict(), tmp_path / "model_state.pth")
    rows = ["proto_idx,img_idx,h,w,score", *(f"{number},{10 * number},1,2,0.5" for number in range(8))]
    (tmp_path / "projection_info.csv").write_text("\n".join(rows))
    net = load_released(tmp_path)
    assert net.model.num_prototypes == 6
    assert net.sources is not None
    assert net.sources.images == [10, 20, 30, 40, 60, 70]
    check_same(net, released, Case(lambda: released, "", lambda net, x: net(x), case.ours))


def test_images_that_cabrnet_does_not_normalise_are_taken_as_they_are(tmp_path: Path) -> None:
    case = CABRNET["ProtoPNet"]
    released = write_cabrnet(tmp_path, case)
    data = json.loads((tmp_path / "dataset.yml").read_text())
    del data["test_set"]["params"]["transform"]["normalize"]
    (tmp_path / "dataset.yml").write_text(json.dumps(data))
    check_same(
        load_released(tmp_path), released, Case(lambda: released, "", lambda net, x: net(x * STD + MEAN), case.ours)
    )


def test_a_resnet_may_end_after_an_earlier_layer(tmp_path: Path) -> None:
    case = CABRNET["ProtoPNet"]
    released = write_cabrnet(tmp_path, case)
    arch = json.loads((tmp_path / "model_arch.yml").read_text())
    arch["extractor"]["convnet"]["source_layer"] = "layer3"
    (tmp_path / "model_arch.yml").write_text(json.dumps(arch))
    released.extractor.convnet.layer4 = nn.Sequential()
    released.extractor.add_on.conv1 = nn.Conv2d(256, 16, 1)
    torch.save(released.state_dict(), tmp_path / "model_state.pth")
    net = load_released(tmp_path)
    assert net.config.model.backbone_stage == 3
    check_same(net, released, Case(lambda: released, "", lambda net, x: net(x), case.ours))


def test_a_tree_whose_similarity_is_no_logarithm_is_refused(tmp_path: Path) -> None:
    write_cabrnet(tmp_path, CABRNET["ProtoTree"])
    arch = json.loads((tmp_path / "model_arch.yml").read_text())
    arch["classifier"]["params"]["log_probabilities"] = True
    (tmp_path / "model_arch.yml").write_text(json.dumps(arch))
    with pytest.raises(CheckpointError, match="log_probabilities must be the same in classifier and similarity"):
        load_released(tmp_path)


def test_a_folder_of_cabrnet_needs_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cabrnet(tmp_path, CABRNET["ProtoPNet"])
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingPackageError, match=r"pyyaml: must be .* 'protokern\[import\]'"):
        load_released(tmp_path)


@pytest.mark.parametrize("text", ["a: !!python/object/apply:os.system ['exit 1']", "a: &x [1]\nb: *x", "- 1", "{", ""])
def test_a_yaml_of_something_else_is_one_line(tmp_path: Path, text: str) -> None:
    write_cabrnet(tmp_path, CABRNET["ProtoPNet"])
    (tmp_path / "model_arch.yml").write_text(text)
    with pytest.raises(CheckpointError, match=r"model_arch\.yml: ") as error:
        load_released(tmp_path)
    assert "\n" not in str(error.value)
