"""Released networks as models of protokern: the same logits for the same images, from every kind of file."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from protokern.backbones import build_backbone
from protokern.errors import CheckpointError, ConfigError, ProtokernError
from protokern.interop import load_released
from protokern.interop.backbone_names import settle_backbone
from protokern.interop.module_state import NetworkState
from protokern.interop.released_nets import Converted

from . import released_programs as programs
from .comparing import CLASSES, SIZE, TOLERANCE, Case, check_same, scores
from .programs import PPNet, PrototypeChooser
from .released_programs import SmallResNet, SmallVGG, settle


def tiny_body() -> nn.Module:
    return build_backbone("tiny", weights="none").body


def hard_pool(**options: Any) -> PrototypeChooser:
    """A pool at the scale at which the program evaluates it after its last push."""
    net = PrototypeChooser(tiny_body(), 9, 3, CLASSES, 16, 128, **options)
    net.proto_presence.data *= 1e4
    net.prototype_vectors.data[8] = 0
    net.proto_presence.data[:, 8] = -1e4
    return net


def of_inference(net: nn.Module, x: Tensor) -> Tensor:
    return net(x, inference=True)[2]


CASES: dict[str, Case] = {
    "protopnet": Case(lambda: PPNet(tiny_body(), (8, 16, 1, 1), CLASSES, 128), "tiny"),
    "protopnet resnet": Case(lambda: PPNet(SmallResNet(), (8, 16, 1, 1), CLASSES, 512), "resnet-basic-1-1-1-1"),
    "protopnet vgg": Case(lambda: PPNet(SmallVGG(), (8, 16, 1, 1), CLASSES, 16), "vgg-8-M-16-M"),
    "protopnet vgg_bn": Case(
        lambda: PPNet(SmallVGG((8, "M", 8, 16, "M"), norms=True), (8, 16, 1, 1), CLASSES, 16), "vgg_bn-8-M-8-16-M"
    ),
    "protopnet large prototypes": Case(lambda: PPNet(tiny_body(), (8, 16, 2, 2), CLASSES, 128), "tiny"),
    "tesnet": Case(
        lambda: programs.TESNet(tiny_body(), (8, 16, 1, 1), CLASSES, 128), "tiny", options={"system": "tesnet"}
    ),
    "protopool": Case(hard_pool, "tiny"),
    "protopool without last layer": Case(lambda: hard_pool(use_last_layer=False), "tiny"),
    "pipnet": Case(
        lambda: programs.PIPNet(SmallResNet(strides=(1, 2, 1, 1)), 512, CLASSES, 20),
        "resnet-basic-1-1-1-1-stride8",
        of_inference,
        scores,
    ),
    "pipnet with a bias": Case(
        lambda: programs.PIPNet(tiny_body(), 128, CLASSES, 20, bias=True), "tiny", of_inference, scores
    ),
    "pipnet without add-on": Case(lambda: programs.PIPNet(tiny_body(), 128, CLASSES), "tiny", of_inference, scores),
}
WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "state dict": lambda net: net.state_dict(),
    "module": lambda net: net,
    "training": lambda net: {"model_state_dict": nn.DataParallel(net).state_dict(), "epoch": 3},
}


@pytest.mark.parametrize(
    ("name", "wrapping"), [*((name, one) for name in CASES for one in ("state dict", "module")), ("pipnet", "training")]
)
def test_logits_are_those_of_the_released_program(tmp_path: Path, name: str, wrapping: str) -> None:
    case = CASES[name]
    released = settle(case.make())
    torch.save(WRAPPED[wrapping](released), tmp_path / "net.pth")
    net = load_released(tmp_path / "net.pth", image_size=SIZE, **case.options)
    assert net.config.model.backbone == case.backbone
    assert net.difference < TOLERANCE
    assert not net.model.training
    check_same(net, released, case)


TREE = Case(
    lambda: programs.ProtoTree(tiny_body(), 128, CLASSES, 3, 16),
    "tiny",
    lambda net, x: net(x)[0],
    lambda output: output.logits.exp(),
)


def write_tree(folder: Path, net: nn.Module, beside: str) -> Path:
    """A tree as the released program saves it: its state dict, and what says which branch has which prototype."""
    torch.save(net.state_dict(), folder / "model_state.pth")
    if beside == "model.pth":
        torch.save(net, folder / "model.pth")
    elif beside == "tree.pkl":
        (folder / "tree.pkl").write_bytes(pickle.dumps(net))
    return folder / "model_state.pth"


@pytest.mark.parametrize("is_pruned", [False, True], ids=["whole", "pruned"])
@pytest.mark.parametrize("beside", ["model.pth", "tree.pkl"])
def test_a_tree_asks_for_the_prototypes_that_the_program_gave_its_branches(
    tmp_path: Path, beside: str, is_pruned: bool
) -> None:
    released = settle(TREE.make())
    if is_pruned:
        released.prune_left_below(released._root)
    path = write_tree(tmp_path, released, beside)
    net = load_released(path, image_size=SIZE)
    assert net.model.num_prototypes == (5 if is_pruned else 7)
    assert f"the prototypes of the branches are as {beside} says" in net.notes
    check_same(net, released, TREE)
    check_same(load_released(tmp_path, image_size=SIZE), released, TREE)


def test_a_tree_takes_a_map_of_its_branches(tmp_path: Path) -> None:
    released = settle(TREE.make())
    path = write_tree(tmp_path, released, "nothing")

    def walk(place: str, node: Any) -> dict[str, int]:
        if isinstance(node, programs.Leaf):
            return {}
        below = (walk(f"{place}.{step}".strip("."), getattr(node, step)) for step in "lr")
        return {place: released._out_map[node]} | next(below) | next(below)

    check_same(load_released(path, image_size=SIZE, tree_map=walk("", released._root)), released, TREE)


def test_a_state_dict_of_a_tree_alone_is_refused(tmp_path: Path) -> None:
    path = write_tree(tmp_path, TREE.make(), "nothing")
    with pytest.raises(CheckpointError, match="which branch has which prototype, and a state dict does not"):
        load_released(path, image_size=SIZE)


def prune(net: PPNet) -> set[int]:
    """Take away three prototypes, as the released program does."""
    net.prune_prototypes([1, 4, 5])
    return {1, 4, 5}


def test_a_pruned_module_says_its_classes(tmp_path: Path) -> None:
    released = settle(CASES["protopnet"].make())
    prune(released)
    torch.save(released, tmp_path / "net.pth")
    net = load_released(tmp_path / "net.pth", image_size=SIZE)
    assert net.model.class_identity.argmax(1).tolist() == [0, 1, 1, 3, 3]
    check_same(net, released, CASES["protopnet"])


def test_a_pruned_state_dict_needs_what_pruning_wrote(tmp_path: Path) -> None:
    released = settle(CASES["protopnet"].make())
    removed = prune(released)
    torch.save(released.state_dict(), tmp_path / "10prune0.8.pth")
    with pytest.raises(CheckpointError, match=r"which of the 5 prototypes belongs to which of the 4 classes"):
        load_released(tmp_path / "10prune0.8.pth", image_size=SIZE)
    np.save(tmp_path / "prune_info.npy", np.array([(number, number // 2) for number in sorted(removed)]))
    net = load_released(tmp_path / "10prune0.8.pth", image_size=SIZE)
    assert net.model.class_identity.argmax(1).tolist() == [0, 1, 1, 3, 3]
    check_same(net, released, CASES["protopnet"])


def test_a_pickled_array_beside_a_net_is_not_opened(tmp_path: Path) -> None:
    released = CASES["protopnet"].make()
    prune(released)
    torch.save(released.state_dict(), tmp_path / "net.pth")
    np.save(tmp_path / "prune_info.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(CheckpointError, match="must be an array of numbers"):
        load_released(tmp_path / "net.pth", image_size=SIZE)


def test_tesnet_is_known_by_the_length_of_its_prototypes(tmp_path: Path) -> None:
    released = settle(CASES["tesnet"].make())
    vectors = released.prototype_vectors.data
    released.prototype_vectors.data = vectors / vectors.norm(dim=1, keepdim=True)
    torch.save(released.state_dict(), tmp_path / "net.pth")
    net = load_released(tmp_path / "net.pth", image_size=SIZE)
    assert net.system == "TesNet"
    check_same(net, released, CASES["tesnet"])


def test_zero_prototypes_of_a_pool_are_named(tmp_path: Path) -> None:
    torch.save(hard_pool().state_dict(), tmp_path / "net.pth")
    net = load_released(tmp_path / "net.pth", image_size=SIZE)
    assert "never pushed, so zero vectors: prototypes 8" in net.notes


def of_backbone(name: str, prefix: str = "") -> tuple[NetworkState, Converted]:
    """A network of which only the backbone is known, without numbers."""
    with torch.device("meta"):
        body = build_backbone(name, weights="none").body
    tensors = {f"{prefix}{key}": value for key, value in body.state_dict().items()}
    converted = Converted(settings={}, num_classes=1, backbone=tensors, head={}, plain=lambda maps: maps)
    return NetworkState(Path("net.pth"), tensors), converted


@pytest.mark.parametrize("name", ["resnet-bottleneck-3-4-6-4", "resnet50"])
def test_the_two_sizes_of_the_resnet50_of_inaturalist_are_told_apart(name: str) -> None:
    found, _, notes = settle_backbone(*of_backbone(name), "resnet50_inat")
    assert found == name
    assert any(name in note for note in notes)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        *(("vgg11", ""), ("vgg11", "features."), ("vgg19_bn", "features."), ("resnet34", "")),
        *(("densenet121", "features."), ("convnext_tiny", "features.")),
    ],
)
def test_published_backbones_are_found_by_their_tensors(name: str, prefix: str) -> None:
    state, converted = of_backbone(name, prefix)
    found, named, _ = settle_backbone(state, converted, None)
    assert found == name
    assert list(named) == [key.removeprefix(prefix) for key in state.tensors]


class Strides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


@pytest.mark.parametrize("is_module", [False, True])
def test_a_net_whose_strides_nobody_says_is_not_guessed(tmp_path: Path, is_module: bool) -> None:
    net = PPNet(Strides().features, (8, 16, 1, 1), CLASSES, 16)
    torch.save(net if is_module else net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="must have a backbone that protokern knows"):
        load_released(tmp_path / "net.pth", image_size=SIZE)


def test_a_module_with_other_strides_than_its_name_says_is_refused(tmp_path: Path) -> None:
    torch.save(PPNet(Strides(), (8, 16, 1, 1), CLASSES, 16), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"features\.features\.0 has stride \(2, 2\) instead of \(1, 1\)"):
        load_released(tmp_path / "net.pth", image_size=SIZE)


def test_a_module_with_the_strides_of_pip_net_is_not_taken_for_another(tmp_path: Path) -> None:
    torch.save(PPNet(SmallResNet(strides=(1, 2, 1, 1)), (8, 16, 1, 1), CLASSES, 512), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"layer3\.0\.conv1 has stride \(1, 1\) instead of \(2, 2\)"):
        load_released(tmp_path / "net.pth", image_size=SIZE)
    assert (
        load_released(tmp_path / "net.pth", image_size=SIZE, backbone="resnet-basic-1-1-1-1-stride8").difference < 1e-4
    )


SPOILT: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "prototypes of two dimensions": lambda state: state.update(prototype_vectors=torch.rand(8, 16)),
    "no prototypes": lambda state: state.update(prototype_vectors=torch.rand(0, 16, 1, 1)),
    "other channels": lambda state: state.update(prototype_vectors=torch.rand(8, 5, 1, 1)),
    "prototypes that are too large": lambda state: state.update(prototype_vectors=torch.rand(8, 16, 90, 90)),
    "not a number": lambda state: state.update(prototype_vectors=torch.full((8, 16, 1, 1), torch.nan)),
    "last layer of one dimension": lambda state: state.update({"last_layer.weight": torch.rand(8)}),
    "last layer of other prototypes": lambda state: state.update({"last_layer.weight": torch.rand(4, 9)}),
    "last layer of no class": lambda state: state.update({"last_layer.weight": torch.rand(0, 8)}),
    "no last layer": lambda state: state.pop("last_layer.weight"),
    "no add-on layers": lambda state: [state.pop(name) for name in list(state) if name.startswith("add_on")],
    "add-on layer of one dimension": lambda state: state.update({"add_on_layers.0.weight": torch.rand(16)}),
    "bias of another size": lambda state: state.update({"add_on_layers.0.bias": torch.rand(3)}),
    "ones that are none": lambda state: state.update(ones=torch.zeros(8, 16, 1, 1)),
    "no backbone": lambda state: [state.pop(name) for name in list(state) if name.startswith("features")],
    "half a backbone": lambda state: state.pop("features.0.weight"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_tensors_that_do_not_fit_are_one_line(tmp_path: Path, name: str) -> None:
    state = dict(CASES["protopnet"].make().state_dict())
    SPOILT[name](state)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ProtokernError) as error:
        load_released(tmp_path / "net.pth", image_size=SIZE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("system", ["protopool", "pipnet", "prototree", "cabrnet"])
def test_a_file_of_another_system_is_one_line(tmp_path: Path, system: str) -> None:
    torch.save(CASES["protopnet"].make().state_dict(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError) as error:
        load_released(tmp_path / "net.pth", image_size=SIZE, system=system)
    assert "\n" not in str(error.value)


def test_choices_of_too_many_classes_are_refused_before_their_table_is_made(tmp_path: Path) -> None:
    state = dict(hard_pool(use_last_layer=False).state_dict())
    state["proto_presence"] = torch.zeros(300_000, 9, 1)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="must have fewer classes and slots"):
        load_released(tmp_path / "net.pth", image_size=SIZE)


def test_a_wrong_backbone_is_one_line(tmp_path: Path) -> None:
    torch.save(CASES["protopnet"].make().state_dict(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="must have the tensors of backbone 'resnet18'; ") as error:
        load_released(tmp_path / "net.pth", backbone="resnet18", image_size=SIZE)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="--backbone: must be a name that protokern knows; got 'resnet19'"):
        load_released(tmp_path / "net.pth", backbone="resnet19", image_size=SIZE)


def test_class_names_are_taken_and_counted(tmp_path: Path) -> None:
    torch.save(CASES["protopnet"].make(), tmp_path / "net.pth")
    names = ("ant", "bee", "cat", "dog")
    assert load_released(tmp_path / "net.pth", image_size=SIZE, classes=names).classes == names
    with pytest.raises(ConfigError, match="--classes: must be 4 different names"):
        load_released(tmp_path / "net.pth", image_size=SIZE, classes=names[:3])


class OtherPPNet(PPNet):
    """A program with the names of ProtoPNet's tensors and add-on layers of another form."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.add_on_layers[3] = nn.Tanh()


def test_another_form_of_add_on_layers_is_refused(tmp_path: Path) -> None:
    torch.save(OtherPPNet(tiny_body(), (8, 16, 1, 1), CLASSES, 128), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="a sigmoid at the end; got Conv2d, ReLU, Conv2d, Tanh"):
        load_released(tmp_path / "net.pth", image_size=SIZE)


def half(distances: Tensor) -> Tensor:
    return -distances / 2


def test_a_similarity_that_is_a_function_is_refused(tmp_path: Path) -> None:
    net = PPNet(tiny_body(), (8, 16, 1, 1), CLASSES, 128, prototype_activation_function=half)
    torch.save(net, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="must be 'log' or 'linear'; got a function"):
        load_released(tmp_path / "net.pth", image_size=SIZE)


@pytest.mark.parametrize(
    ("name", "title"), [("prototype_vectors_trivial", "ST-ProtoPNet"), ("prototype_means", "MGProto")]
)
def test_systems_without_a_model_are_named(tmp_path: Path, name: str, title: str) -> None:
    torch.save({name: torch.ones(2), "last_layer.weight": torch.ones(2, 2)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=f"got {title}"):
        load_released(tmp_path / "net.pth")


def test_tensors_of_no_system_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="got 2 tensors of none of them, such as bias, weight"):
        load_released(tmp_path / "net.pth")


def test_sources_of_the_epoch_of_the_network_are_read(tmp_path: Path) -> None:
    torch.save(CASES["protopnet"].make(), tmp_path / "10push0.8.pth")
    for epoch in (10, 20):
        folder = tmp_path / "img" / f"epoch-{epoch}"
        folder.mkdir(parents=True)
        np.save(folder / f"bb{epoch}.npy", np.arange(48).reshape(8, 6) + epoch)
        np.save(folder / f"bb-receptive_field{epoch}.npy", np.zeros((8, 6), int))
    net = load_released(tmp_path / "10push0.8.pth", image_size=SIZE)
    assert net.sources is not None
    assert net.sources.images == [10 + 6 * number for number in range(8)]
    assert net.sources.rows[1] == {"image": 16, "y0": 17, "y1": 18, "x0": 19, "x1": 20, "class": 21}


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must be a folder with model_state\.pth or model\.pth; it has neither"):
        load_released(tmp_path)
