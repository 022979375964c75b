"""Folders for model hubs: what is written is read again, strictly, and the card tells what is known."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from protokern.cli.main import main
from protokern.errors import ConfigError, ExportError, MissingPackageError, ProtokernError
from protokern.interop import Pretrained, from_pretrained, save_pretrained
from protokern.runs.open import load_model, open_run
from tests.cli.pushed_run import CLASSES, PushedRun, make_pool_run, make_run


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    return make_run(tmp_path_factory.mktemp("pushed"))


@pytest.fixture
def folder(pushed: PushedRun, tmp_path: Path) -> Path:
    save_pretrained(tmp_path / "net", *load_model(pushed.folder))
    return tmp_path / "net"


@pytest.mark.filterwarnings("ignore:model. no class uses")
@pytest.mark.parametrize("make", [make_run, make_pool_run])
@torch.no_grad()
def test_a_model_comes_back_as_it_was(make: Callable[[Path], PushedRun], tmp_path: Path) -> None:
    """Also a pool, whose state is more than tensors; and after pruning, when it has fewer prototypes than settings."""
    model, config, classes = load_model(make(tmp_path).folder)
    model.keep_prototypes([0, 2, 3])
    save_pretrained(tmp_path / "net", model, config, classes)
    assert {path.name for path in (tmp_path / "net").iterdir()} == {"config.json", "model.safetensors"}
    found = from_pretrained(tmp_path / "net")
    assert isinstance(found, Pretrained)
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(found.model(images).logits, model(images).logits)
    assert found.classes == classes == CLASSES
    assert not found.model.training
    assert found.config["data"]["image_size"] == 32
    assert "path" not in found.config["data"]
    assert found.config["model"] == config["model"]
    save_pretrained(tmp_path / "again", *found)
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "net" / "config.json").read_bytes()


def test_a_path_of_the_machine_of_the_training_is_left_out(pushed: PushedRun, tmp_path: Path) -> None:
    model, config, classes = load_model(pushed.folder)
    config = {**config, "model": {**config["model"], "weights": "/home/somebody/weights.pth"}}
    save_pretrained(tmp_path / "net", model, config, classes)
    text = (tmp_path / "net" / "config.json").read_text()
    assert "somebody" not in text
    assert str(pushed.data) not in text


def test_an_existing_folder_is_kept(folder: Path, pushed: PushedRun) -> None:
    with pytest.raises(ExportError, match=r"folder: must be a new one; got .*, which exists"):
        save_pretrained(folder, *load_model(pushed.folder))


def _change(table: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**table, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: _change(table, format="protokern-pretrained-9"), "this version reads up to"),
        (lambda table: _change(table, classes=None), "it is broken"),
        (lambda table: {key: value for key, value in table.items() if key != "sha256"}, "it is broken"),
        (lambda table: _change(table, sha256="0" * 64), "checksum differs"),
        (lambda table: _change(table, classes=["a", "b", "c"]), "do not fit the model"),
        (lambda table: _change(table, model=_change(table["model"], code="os.system")), "does not have: code"),
        (lambda table: _change(table, model=_change(table["model"], name="other")), "holds a model 'other'"),
        (lambda table: _change(table, model=_change(table["model"], backbone="resnet34")), "do not fit the model"),
        (
            lambda table: _change(table, model=_change(table["model"], prototypes_per_class=10**9)),
            "half of this machine",
        ),
        (lambda table: [], "must be"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ProtokernError, match=message) as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_broken_weights_are_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ProtokernError, match=r"is not whole"):
        from_pretrained(folder)
    path.unlink()
    with pytest.raises(ProtokernError, match=r"model\.safetensors"):
        from_pretrained(folder)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/a/b", "./a"])
def test_what_is_no_folder_and_no_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="path_or_name: must be a folder, or owner/name of a hub; got"):
        from_pretrained(name)


def test_a_name_goes_through_the_package_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    package = ModuleType("huggingface_hub")
    package.__spec__ = json.__spec__

    def snapshot_download(name: str, **words: Any) -> str:
        asked.append((name, words))
        return str(folder)

    package.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    assert from_pretrained("somebody/birds", revision="v1").classes == CLASSES
    words = {"revision": "v1", "allow_patterns": ["config.json", "model.safetensors"]}
    assert asked == [("somebody/birds", words)]


def test_a_name_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r"huggingface_hub: .*protokern\[hub\]"):
        from_pretrained("somebody/birds")


def test_without_an_evaluation_the_card_tells_how_the_training_ended(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pushed.folder, run)
    stage, _, epoch = open_run(run).checkpoint.name.rpartition("-")
    summary = {
        "format": "protokern-metrics-1",
        "accuracy": 0.75,
        "stages": {f"after_{stage}": {"val": 0.5, "test": 0.75, "prototypes": 6}},
        "epoch": int(epoch),
        "images": {"train": 12, "val": 2, "test": 8},
    }
    (run / "metrics.json").write_text(json.dumps(summary))
    command = ["export", str(run), "--format", "hub", "--out"]
    assert main([*command, str(tmp_path / "ended")]) == 0
    card = (tmp_path / "ended" / "README.md").read_text()
    assert "75.0% of 8 test images (95 % interval 40.9% to 92.9%), at the end of the training." in card
    assert "value: 0.750000" in card
    (run / "metrics.json").write_text(json.dumps(summary | {"epoch": int(epoch) + 1}))
    assert main([*command, str(tmp_path / "other")]) == 0
    assert "Not known for these weights" in (tmp_path / "other" / "README.md").read_text()
    capsys.readouterr()


def test_the_command_writes_a_card_with_what_is_known(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hub"
    command = ["export", str(pushed.folder), "--format", "hub", "--out", str(out)]
    assert main(command) == 0
    assert "names no licence" in capsys.readouterr().out
    assert "Not known for these weights" in (out / "README.md").read_text()
    assert main(["evaluate", str(pushed.folder)]) == 0
    assert main(["metrics", str(pushed.folder), "--only", "size", "accuracy"]) == 0
    capsys.readouterr()
    assert main([*command, "--license", "cc-by-4.0"]) == 0
    printed = capsys.readouterr().out
    assert "loaded again" in printed
    assert "names no licence" not in printed
    card = (out / "README.md").read_text()
    evaluation = json.loads((pushed.folder / "evaluation.json").read_text())
    assert card.startswith("---\nlibrary_name: protokern\n")
    assert 'license: "cc-by-4.0"' in card
    assert f"value: {evaluation['accuracy']:.6f}" in card
    # Wilson's interval, by its formula.
    share, count, z = evaluation["accuracy"], evaluation["images"], 1.959963985
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    assert f"95 % interval {middle - half:.1%} to {middle + half:.1%}" in card
    assert "&#60;b&#62;across" in card  # a name of a class is no HTML
    assert "| measure | number | value |" in card
    assert "| accuracy |" in card
    assert (out / "prototypes.png").stat().st_size > 1000
    tensors = load_file(out / "model.safetensors")
    assert torch.equal(tensors["prototype_layer.prototypes"], pushed.model.state_dict()["prototype_layer.prototypes"])
    assert from_pretrained(out).classes == CLASSES
