"""A head on a frozen backbone through the commands: who runs the backbone, and who reads what it gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from protokern.backbones.registry import Backbone
from protokern.cli.main import main
from protokern.runs.folder import new_config
from tests.cli.test_train import SETTINGS, photos  # noqa: F401

FROZEN = {**SETTINGS, "train.backbone": "frozen", "train.joint_epochs": "1"}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the images of every call of a backbone but the one on a black image, by which a model is measured."""
    seen: list[int] = []
    forward = Backbone.forward

    def count(self, images):
        if images.device.type != "meta" and images.any():
            seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Backbone, "forward", count)
    return seen


def evaluated(run: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict:
    assert main(["evaluate", str(run), *flags]) == 0
    answer: dict = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


def test_a_store_is_named_so_that_it_holds_anywhere(
    photos: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**FROZEN, "data.feature_store": "shared", "data.path": str(photos)}
    monkeypatch.chdir(tmp_path)
    changes = [f"{key}={value}" for key, value in settings.items()]
    assert new_config(tmp_path / "run", None, changes, None).data.feature_store == str(tmp_path / "shared")


def test_verbs_read_the_stores_of_their_images_and_run_the_backbone_for_others(
    photos: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    batches: list[int],
) -> None:
    run, sets = tmp_path / "run", [part for key, value in FROZEN.items() for part in ("--set", f"{key}={value}")]
    assert main(["train", "--recipe", "paper", "--data", str(photos), "--out", str(run), *sets]) == 0
    assert "the backbone is frozen: all stages read" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert (run / "report" / "index.html").exists()

    batches.clear()
    from_store = evaluated(run, capsys)
    assert batches == []
    assert from_store["accuracy"] == metrics["accuracy"]
    batches.clear()
    copied = tmp_path / "photos"
    shutil.copytree(photos, copied, copy_function=shutil.copy)  # with new times
    from_images = evaluated(run, capsys, "--data", str(copied))
    assert sum(batches) == from_images["images"]
    assert from_images["loss"] == pytest.approx(from_store["loss"], rel=1e-4)

    batches.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protokern.cli.head_verb._write_pictures", lambda *_: None)
        patch.setattr("protokern.cli.head_verb._write_page", lambda folder, splits: folder)
        assert main(["push", str(run)]) == 0
    assert batches == []
    (run / "features" / "test" / "features.bin").write_bytes(b"")
    assert main(["evaluate", str(run)]) == 2
    assert "features.bin: must have" in capsys.readouterr().err
    shutil.rmtree(run / "features")
    assert evaluated(run, capsys)["checkpoint"].startswith("push-")
