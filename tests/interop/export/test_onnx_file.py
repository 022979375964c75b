"""ONNX files answer as their models in onnxruntime, for any number and size of images, and say what they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from protokern.errors import ExportError, MissingPackageError
from protokern.interop.export import onnx_file
from protokern.interop.export.source import ExportOptions
from protokern.interop.export.trace import fixed_size_reason
from protokern.models import ProtoPNet
from protokern.models.base import PrototypeModel
from tests.interop.export.nets import SIZE, make, source_of

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install '.[onnx]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install '.[onnx]'")

# One of each head. Two are for images of any size, whose tracing takes three times as long: a plain one, and one with
# all that computes with sizes.
EXPORTED = {
    "log": "protopnet",
    "salient by a stage": "protopnet",
    "pool of windows": "protopool",
    "tesnet": "tesnet",
    "tree": "prototree",
    "pipnet": "pipnet",
}
ANY_SIZE = ("log", "salient by a stage")
PLACES = [0, 7, 12, 20, 24]  # patches of an image that the first prototypes of "log" are
Export = Callable[[str], Path]


def photo() -> torch.Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def net(name: str) -> PrototypeModel:
    model = make(name)
    if name == "log":
        assert isinstance(model, ProtoPNet)
        model.prototype_layer.prototypes[: len(PLACES)] = model.features(photo())[0].flatten(1).T[PLACES]
    return model


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Writes a model once; its folder."""
    written: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in written:
            folder = tmp_path_factory.mktemp("onnx")
            options = ExportOptions(
                heat_maps=name == "log", repair="argmin" if name == "tree" else "topk", any_size=name in ANY_SIZE
            )
            onnx_file.write(source_of(net(name), EXPORTED[name]), options, folder)
            written[name] = folder
        return written[name]

    return write


def session_of(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def answers_of(path: Path, images: torch.Tensor) -> dict[str, np.ndarray]:
    session = session_of(path)
    return dict(
        zip([one.name for one in session.get_outputs()], session.run(None, {"image": images.numpy()}), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
@torch.no_grad()
def test_a_file_answers_as_the_model_for_any_number_and_size_of_images(name: str, export: Export) -> None:
    path, model = export(name) / onnx_file.MODEL, net(name)
    others = ((5, 3, SIZE + 1, SIZE + 22), (2, 3, SIZE - 7, SIZE)) if name in ANY_SIZE else ((4, 3, SIZE, SIZE),)
    for shape in ((1, 3, SIZE, SIZE), *others):
        images = torch.rand(shape)
        wanted, got = model(images), answers_of(path, images)
        np.testing.assert_allclose(got["logits"], wanted.logits, atol=1e-4)
        np.testing.assert_allclose(got["similarity"], wanted.activations, atol=1e-4)
        assert (got["patch"] == wanted.patches.numpy()).all()
        assert got["patch"].dtype == got["grid"].dtype == np.int64
        height, width = model.prototype_layer.prototype_size
        rows, columns = model.features(images).shape[2:]
        assert got["grid"].tolist() == [rows - height + 1, columns - width + 1]
        assert ("distance" in got) == (name != "pipnet")


def test_a_prototype_that_is_a_patch_has_its_full_similarity(export: Export) -> None:
    got = answers_of(export("log") / onnx_file.MODEL, photo())
    assert got["similarity"][0, : len(PLACES)].tolist() == pytest.approx([math.log(1e4)] * len(PLACES), abs=1e-3)
    assert got["patch"][0, : len(PLACES)].tolist() == PLACES


def test_the_graph_has_names_free_sizes_and_no_operator_of_our_own(export: Export) -> None:
    proto = onnx.load(str(export("salient by a stage") / onnx_file.MODEL))
    assert [(one.domain, one.version) for one in proto.opset_import] == [("", 18)]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    sizes = {
        one.name: [side.dim_param or side.dim_value for side in one.type.tensor_type.shape.dim]
        for one in (*proto.graph.input, *proto.graph.output)
    }
    assert sizes == {
        "image": ["batch", 3, "height", "width"],
        "logits": ["batch", 3],
        "similarity": ["batch", 12],
        "distance": ["batch", 12],
        "patch": ["batch", 12],
        "grid": [2],
    }
    assert proto.ir_version <= 10
    # Nothing is left over, squares and their sums are one node.
    used = {name for node in proto.graph.node for name in node.input}
    assert {one.name for one in proto.graph.initializer} <= used
    assert "ReduceSumSquare" in {node.op_type for node in onnx.load(str(export("log") / onnx_file.MODEL)).graph.node}
    # Convolutions pad by the size themselves, and nothing of this machine is in the file.
    padded = [one.s for node in proto.graph.node for one in node.attribute if one.name == "auto_pad"]
    assert padded.count(b"SAME_UPPER") == 3
    assert str(Path(__file__).parents[3]).encode() not in proto.SerializeToString()


def test_a_file_says_what_it_is(export: Export) -> None:
    facts = session_of(export("log") / onnx_file.MODEL).get_modelmeta().custom_metadata_map
    assert json.loads(facts["names"]) == {"0": "a", "1": "b", "2": "c"}
    assert facts["task"] == "classify"
    assert json.loads(facts["imgsz"]) == [SIZE, SIZE]
    assert json.loads(facts["mean"]) == [0.5, 0.5, 0.5]
    assert json.loads(facts["std"]) == [0.25, 0.25, 0.25]
    assert facts["protokern.model"] == "protopnet"
    assert facts["protokern.activation"] == "log"
    assert facts["protokern.epsilon"] == "0.0001"
    assert "normalised inside" in facts["description"]
    assert "license" not in facts


@torch.no_grad()
def test_maps_of_chosen_prototypes(export: Export) -> None:
    model, session = net("log"), session_of(export("log") / onnx_file.MAPS)
    images, chosen = torch.rand(2, 3, SIZE + 5, SIZE), torch.tensor([7, 0, 7])
    (maps,) = session.run(["map"], {"image": images.numpy(), "prototype": chosen.numpy()})
    layer = model.prototype_layer
    wanted = layer.activate(layer.distance_map(model.features(images), chosen))
    np.testing.assert_allclose(maps, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("logits", r"model\.onnx: must answer as the run does; its logits differ by 0\.001 for 2 images of 40 x 40"),
        ("patch", r"model\.onnx: must find the nearest patches that the run finds; one is farther away by"),
    ],
)
def test_a_file_that_answers_otherwise_is_refused(
    output: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = onnx_file.run

    def wrong(session: Any, images: torch.Tensor) -> dict[str, np.ndarray]:
        answers = run(session, images)
        answers[output][0, 0] += 1 if output == "patch" else 1e-3
        return answers

    monkeypatch.setattr(onnx_file, "run", wrong)
    monkeypatch.setattr(onnx_file, "_write_one", lambda *_: None)
    folder = Path(onnx_file.__file__).parent
    monkeypatch.setattr(onnx_file, "_session", lambda *_: _Eager(make("log")))
    with pytest.raises(ExportError, match=message):
        onnx_file.write(source_of(make("log"), "protopnet"), ExportOptions(), folder)


class _Eager:
    """A session that asks the model itself."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def get_outputs(self) -> list[Any]:
        return [type("Output", (), {"name": name}) for name in ("logits", "similarity", "patch")]

    @torch.no_grad()
    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        output = self.model(torch.from_numpy(inputs["image"]))
        return [output.logits.numpy(), output.activations.numpy(), output.patches.numpy()]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(module: str, **words: str) -> Any:
        raise MissingPackageError(f"{module} {words['install']}")

    monkeypatch.setattr(onnx_file, "import_optional", missing)
    with pytest.raises(MissingPackageError, match=r"onnx 'protokern\[onnx\]'"):
        onnx_file.write(source_of(make("log"), "protopnet"), ExportOptions(), tmp_path)


def test_transformers_have_one_size() -> None:
    backbone, body = nn.Module(), nn.Module()
    backbone.body = body
    assert fixed_size_reason(backbone) is None
    object.__setattr__(body, "patch_size", 16)
    assert "vision transformer" in str(fixed_size_reason(backbone))
    object.__setattr__(body, "only_size", (224, 224))
    assert "images of one size" in str(fixed_size_reason(backbone))
