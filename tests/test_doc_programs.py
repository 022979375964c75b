"""The programs in the documentation of the search, the feature stores and the training run as they are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from protokern.backbones import build_backbone
from protokern.cli.main import main
from protokern.features import FeatureStore, FeatureWriter, Fingerprint
from protokern.models import ProtoPNet
from protokern.push import apply_push
from protokern.runs import open as opening
from protokern.search import find_nearest_patches, merge_nearest
from tests.cli.pushed_run import make_run

DOCS = Path(__file__).resolve().parents[1] / "docs"
IMAGES = 12


def programs(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the pages take as given; stores are of the same images."""
    monkeypatch.chdir(tmp_path)
    backbone = build_backbone("tiny", weights="none")
    model = ProtoPNet(backbone, 3, prototypes_per_class=2, prototype_dim=4, image_size=32).eval()
    monkeypatch.setattr(opening, "load_model", lambda folder: (model, {}, ("a", "b", "c")))
    images, labels, index = torch.rand(IMAGES, 3, 32, 32), torch.arange(IMAGES) % 3, torch.arange(IMAGES)
    with torch.no_grad():
        maps = backbone(images)
        features = model.features(images)
    with FeatureWriter(
        "runs/head/features/train", Fingerprint(weights="", transform="", files=""), images=12
    ) as writer:
        writer.append(maps, labels)
    files = []
    for number, label in enumerate(labels.tolist()):
        Image.new("RGB", (40, 30), (20 * number, 99, 50)).save(f"{number}.png")
        files.append((Path(f"{number}.png"), label))
    return {
        "model": model,
        "backbone": backbone,
        "images": images,
        "files": files,
        "loader": [(images, labels)],
        "loaders": [[(images[part], labels[part], index[part])] for part in index.split(5)],
        "train_features": [(features, labels)],
        "val_features": [(features[:6], labels[:6])],
    }


def run(page: str, position: int, names: dict[str, Any]) -> dict[str, Any]:
    """The names after the program at `position` of a page."""
    exec(compile(programs(page)[position], page, "exec"), names)
    return names


def test_every_program_of_these_pages_is_run() -> None:
    assert [len(programs(page)) for page in ("search.md", "features.md", "training.md")] == [3, 2, 2]


def test_a_search(names: dict[str, Any]) -> None:
    assert run("search.md", 0, names)["nearest"].distance.shape == (6, 5)


def test_a_push_from_parts(names: dict[str, Any]) -> None:
    before = names["model"].prototype_layer.prototypes.clone()
    run("search.md", 1, names)
    assert not torch.equal(names["model"].prototype_layer.prototypes, before)


def test_a_push_from_parts_where_patches_have_weights(names: dict[str, Any]) -> None:
    model = ProtoPNet(
        names["backbone"],
        3,
        prototypes_per_class=2,
        prototype_dim=4,
        metric="cosine",
        activation="cosine",
        add_on_layers="linear",
        salience=1,
        image_size=32,
    )
    before = model.prototype_layer.prototypes.clone()
    names |= {
        "model": model.eval(),
        "apply_push": apply_push,
        "find_nearest_patches": find_nearest_patches,
        "merge_nearest": merge_nearest,
    }
    run("search.md", 2, names)
    assert not torch.equal(model.prototype_layer.prototypes, before)


def test_reading_a_store(names: dict[str, Any]) -> None:
    wanted = names["model"](names["images"][[5, 2, 9]]).logits
    found = run("features.md", 0, names)
    torch.testing.assert_close(found["logits"], wanted)
    assert bool((found["nearest"].label[:, 0] == torch.arange(6) // 2).all())


def test_writing_a_store(names: dict[str, Any]) -> None:
    run("features.md", 1, names)
    store = FeatureStore.open("features/train", fingerprint=names["fingerprint"])
    assert store.shape == (128, 28, 28)
    assert store.labels.tolist() == [label for _, label in names["files"]]


def test_opening_a_run(names: dict[str, Any]) -> None:
    assert run("training.md", 0, names)["logits"].shape == (IMAGES, 3)


def test_solving_a_last_layer(names: dict[str, Any]) -> None:
    before = names["model"].last_layer.weight.clone()
    assert run("training.md", 1, names)["solved"].gap <= 1e-4
    assert not torch.equal(names["model"].last_layer.weight, before)


@pytest.mark.slow
def test_programs_that_run_exported_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps in onnxruntime, answers in torch alone, a model of a hub's folder; on one small run."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install '.[onnx]'")
    folder = make_run(tmp_path, size=64).folder
    monkeypatch.chdir(tmp_path)
    for kind, out in (("onnx", "birds"), ("torch", "birds"), ("hub", "birds-hub")):
        flags = ["--heat-maps"] if kind == "onnx" else []
        assert main(["export", str(folder), "--format", kind, "--out", out, "--size", "fixed", *flags]) == 0
    assert len(programs("export.md")) == 3
    assert run("export.md", 0, {})["maps"].shape == (1, 2, 8, 8)
    assert run("export.md", 1, {})["best"].shape == (2,)
    assert run("export.md", 2, {})["model"].num_prototypes == 6
