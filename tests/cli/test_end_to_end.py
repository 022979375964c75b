"""The whole job as a user does it: synthetic birds, the tiny net, every verb through the command line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from protokern.cli.main import main
from tests.report.test_page import read_page

SMALL = [
    "--set", "model.backbone=tiny",
    "--set", "model.prototype_dim=16",
    "--set", "data.image_size=32",
    "--set", "data.birds_classes=3",
    "--set", "data.birds_train=20",
    "--set", "data.birds_val=8",
    "--set", "data.birds_test=8",
    "--set", "train.batch_size=16",
    "--set", "train.warm_epochs=1",
    "--set", "train.backbone_lr=3e-3",
    "--set", "prune.enabled=true",
]  # fmt: skip
TRAIN = ["--recipe", "paper", *SMALL, "--set", "model.prototypes_per_class=2", "--set", "train.joint_epochs=3"]
TRAIN_POOL = [
    *SMALL,
    "--set", 'model.name="protopool"',
    "--set", "model.num_prototypes=8",
    "--set", "model.slots_per_class=3",
    "--set", "model.schedule_epochs=2",
    "--set", "train.joint_epochs=1",
    "--set", "train.hardening_epochs=1",
    "--set", "train.last_layer_epochs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("end_to_end") / "run"
    assert main(["train", "--out", str(folder), *TRAIN]) == 0
    return folder


def last_json(capsys: pytest.CaptureFixture[str]) -> dict:
    table: dict = json.loads(capsys.readouterr().out.splitlines()[-1])
    return table


def test_the_run_folder_holds_what_was_promised(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        "run.toml",
        "log.jsonl",
        "metrics.json",
        "checkpoints",
        "prototypes",
        "report",
    }
    settings = tomllib.loads((run / "run.toml").read_text())
    assert settings["train"]["joint_epochs"] == 3
    assert settings["made_by"]["protokern"]
    metrics = json.loads((run / "metrics.json").read_text())
    prototypes = json.loads((run / "prototypes" / "prototypes.json").read_text())["prototypes"]
    assert len(prototypes) == metrics["prototypes"]
    for entry in prototypes:
        for name in entry["pictures"].values():
            with Image.open(run / "prototypes" / name) as picture:
                picture.load()
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert read_page(page)["pictures"]


def test_every_verb_runs_on_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert main(["evaluate", str(run)]) == 0
    line = last_json(capsys)
    assert list(line)[-2:] == ["accuracy", "images"]
    assert line["accuracy"] == pytest.approx(metrics["accuracy"])
    assert line["images"] == 24
    assert line["prototypes"] == metrics["prototypes"]

    assert main(["push", str(run)]) == 0
    assert "wrote " in capsys.readouterr().out
    assert main(["evaluate", str(run)]) == 0
    assert last_json(capsys)["checkpoint"].startswith("push-")

    assert main(["prune", str(run), "--set", "prune.threshold=1"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--split", "val"]) == 0
    line = last_json(capsys)
    assert line["checkpoint"].startswith("prune-")
    assert line["images"] == 24

    photo = run / "prototypes" / "0000-image.png"
    assert main(["explain", str(run), str(photo), "--out", str(tmp_path / "why")]) == 0
    assert list((tmp_path / "why").glob("*.html"))
    assert main(["report", str(run)]) == 0
    assert read_page((run / "report" / "index.html").read_text(encoding="utf-8"))["pictures"]


def test_a_run_is_repeated_from_its_run_toml_alone(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert main(["train", "--config", str(run / "run.toml"), "--out", str(again)]) == 0
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (run, again))
    assert first["stages"] == second["stages"]


@pytest.mark.filterwarnings("ignore:model. no class uses the prototypes")
def test_a_protopool_is_trained_reported_and_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", "--out", str(run), *TRAIN_POOL]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    prototypes = json.loads((run / "prototypes" / "prototypes.json").read_text())["prototypes"]
    assert len(prototypes) == metrics["prototypes"]
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert len(read_page(page)["sheets"]) == len(prototypes)
    assert "The pool" in page
    capsys.readouterr()
    assert main(["push", str(run)]) == 0
    assert main(["report", str(run)]) == 0
    photo = next((run / "prototypes").glob("*-image.png"))
    assert main(["explain", str(run), str(photo), "--out", str(tmp_path / "why")]) == 0
    assert "slot " in capsys.readouterr().out
    table = json.loads((tmp_path / "why" / f"{photo.stem}.json").read_text())
    for one in table["classes"]:
        assert sum(entry["points"] for entry in one["prototypes"]) + one["other_points"] == pytest.approx(
            one["logit"], abs=1e-5
        )
