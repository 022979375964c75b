"""`protokern train --resume-from`: a new run goes on with the net of another one, and what was forbidden stays away."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from protokern.cli.main import main
from protokern.edits.history import append_entry
from protokern.edits.records import Forbid
from protokern.errors import TrainingError
from protokern.runs.forbidden import read_forbidden
from protokern.runs.log import read_log
from tests.cli.pushed_run import CLASSES, make_pool_run, make_run, write_photos

SETTINGS = {
    "model.backbone": "tiny",
    "model.prototypes_per_class": "3",
    "model.prototype_dim": "8",
    "data.image_size": "32",
    "data.val_fraction": "0.34",
    "train.batch_size": "4",
    "train.warm_epochs": "1",
    "train.joint_epochs": "1",
}


def sets(changes: dict[str, str]) -> list[str]:
    return [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on photographs of class folders alone, so that its split is in its folder."""
    root = tmp_path_factory.mktemp("first")
    write_photos(root / "all")
    shutil.move(root / "all" / "train", root / "photos")
    words = ["train", "--recipe", "paper", "--data", str(root / "photos"), "--out", str(root / "run"), "--no-report"]
    assert main([*words, *sets(SETTINGS)]) == 0
    return root / "run"


@pytest.fixture(scope="module")
def edited(first: Path) -> Path:
    edits, folder = first.parent / "edits.jsonl", first.parent / "edited"
    append_entry(edits, Forbid(prototype=1, reason="a coat hanger"))
    append_entry(edits, Forbid(prototype=4))
    assert main(["edit", str(first), "--apply", str(edits), "--out", str(folder)]) == 0
    return folder


def go_on(edited: Path, out: Path, *flags: str, **changes: str) -> int:
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    return main(["train", "--resume-from", str(edited), "--out", str(out), "--no-report", *sets(settings), *flags])


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    name = json.loads((run / "checkpoints" / "latest.json").read_text())["latest"]
    weights: dict[str, torch.Tensor] = load_file(run / "checkpoints" / name / "model.safetensors")
    return weights


def check_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_begins_with_the_net_the_settings_and_the_split(
    edited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert go_on(edited, out, train__add_on_lr="1e-4") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith("goes on from edited, with the net of its checkpoint last_layer-")
    assert "forbidden places: 2, and no prototype becomes a patch like one" in printed
    stages = [
        (line["stage"], line["num_prototypes"]) for line in read_log(out / "log.jsonl") if line["kind"] == "stage"
    ]
    assert stages == [("start", 4), ("joint", 4), ("push", 4), ("last_layer", 4)]
    table = tomllib.loads((out / "run.toml").read_text())
    assert table["train"]["prototype_start"] == "kept"
    assert (table["train"]["warm_epochs"], table["train"]["joint_epochs"]) == (0, 1)
    assert table["train"]["add_on_lr"] == 1e-4
    assert table["made_by"]["net_of"] == str(edited.resolve())
    assert json.loads((out / "split.json").read_text()) == json.loads((edited / "split.json").read_text())
    assert read_forbidden(out) == read_forbidden(edited)


def test_a_stopped_run_resumes_without_the_other_to_the_same_bits(
    edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / os.fsdecode(b"source\n\xff")  # no UTF-8, and would steer a terminal
    shutil.copytree(edited, source)
    changes = {"train__joint_epochs": "2", "train__live_epochs": "1"}
    assert go_on(source, tmp_path / "whole", **changes) == 0
    with monkeypatch.context() as patched:
        patched.setattr("protokern.train.loop.return_to_best_joint", _fail)
        assert go_on(source, tmp_path / "stopped", **changes) == 2
    assert "the push failed" in capsys.readouterr().err
    shutil.rmtree(source)
    assert main(["train", "--out", str(tmp_path / "stopped"), "--resume", "--no-report"]) == 0
    check_same(weights_of(tmp_path / "stopped"), weights_of(tmp_path / "whole"))


def _fail(*_: object, **__: object) -> None:
    raise TrainingError("the push failed.")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("protokern.cli.training.TrainingRun.start", _fail)
        assert go_on(edited, out) == 2
    assert (out / "forbidden.json").exists()
    capsys.readouterr()
    assert main(["train", "--out", str(out), "--resume"]) == 2
    error = capsys.readouterr().err
    assert f"has no checkpoint yet, and was to begin with the net of {edited.resolve()}. Give --resume-from" in error
    assert go_on(edited, out) == 0


def test_a_run_without_forbidden_places_goes_on_too_and_prototypes_stay_patches(first: Path, tmp_path: Path) -> None:
    """Without joint epochs there is no push: live prototypes stay those of the run."""
    out = tmp_path / "run"
    assert go_on(first, out, train__joint_epochs="0", train__live_epochs="1") == 0
    assert not (out / "forbidden.json").exists()
    sources = [
        [
            one["source"]["name"]
            for one in json.loads((run / "prototypes" / "prototypes.json").read_text())["prototypes"]
        ]
        for run in (first, out)
    ]
    assert sources[0] == sources[1]
    stages = [line["stage"] for line in read_log(out / "log.jsonl") if line["kind"] == "stage"]
    assert stages == ["start", "live", "last_layer"]


def test_a_push_of_the_edited_run_puts_no_forbidden_patch_back(edited: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(edited, run)
    assert main(["push", str(run)]) == 0
    places = read_forbidden(run)
    assert places is not None
    forbidden = {(one.image, one.patch) for one in places.places}
    table = json.loads((run / "prototypes" / "prototypes.json").read_text())
    assert not {(one["source"]["name"], tuple(one["source"]["patch"])) for one in table["prototypes"]} & forbidden


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.prototype_dim": "4"},
            "model.prototype_dim: cannot be changed with --resume-from, which keeps the net.",
        ),
        ({"model.top_k": "2"}, "model.top_k: cannot be changed"),
        ({"data.channels": "1"}, "data.channels: cannot be changed"),
        ({"train.seed": "5"}, "train.seed: cannot be changed with --resume-from: images that the net was trained on"),
        ({"train.prototype_start": "random"}, 'train.prototype_start: must be "kept" or "patches" with --resume-from'),
        ({"train.joint_epochs": "0"}, "train.joint_epochs: must be at least 1 when warm_epochs is 0, unless"),
        ({"train.forbidden": "-1"}, "train.forbidden: must be a finite number of at least 0; got -1"),
        ({"data.image_size": "48"}, "data.image_size: must give the 4 x 4 patches of forbidden.json; got 6 x 6."),
    ],
)
def test_changes_that_do_not_fit_are_named(
    edited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], message: str
) -> None:
    assert go_on(edited, tmp_path / "run", **{key.replace(".", "__"): value for key, value in changes.items()}) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_recipe_and_a_file_change_the_training_and_not_the_net(edited: Path, tmp_path: Path) -> None:
    file = tmp_path / "more.toml"
    file.write_text("[train]\nbatch_size = 3\nwarm_epochs = 4\njoint_epochs = 1\nlive_epochs = 0\nfrozen_layers = []\n")
    assert go_on(edited, tmp_path / "run", "--recipe", "fine", "--config", str(file)) == 0
    table = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert table["model"]["backbone"] == "tiny"
    assert table["train"]["schedule"] == "linear"  # of the recipe
    assert table["train"]["batch_size"] == 3
    assert table["train"]["warm_epochs"] == 0  # only --set asks for them


def test_flags_that_do_not_go_together_are_refused(
    edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go_on(edited, tmp_path / "run", "--resume") == 2
    assert "--resume-from: must be left out with --resume" in capsys.readouterr().err
    assert go_on(edited, edited) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert go_on(tmp_path / "no", tmp_path / "run") == 2
    assert "must be a run folder or a checkpoint; it does not exist" in capsys.readouterr().err
    for recipe in ("paper", "quick"):  # the sizes of one follow the data
        words = ["train", "--recipe", recipe, "--out", str(tmp_path / "run"), "--set", "train.prototype_start=kept"]
        assert main(words) == 2
        assert 'train.prototype_start: must be "random" or "patches" for a new net' in capsys.readouterr().err
    monkeypatch.setattr("protokern.cli.training.joined_ranks", _TwoRanks)
    assert go_on(edited, tmp_path / "run") == 2
    assert "--resume-from: must be trained in one process; got 2" in capsys.readouterr().err


class _TwoRanks:
    size, is_first, rank = 2, True, 0

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> _TwoRanks:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def test_other_models_and_other_classes_are_refused(
    edited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pool").mkdir()
    pool = make_pool_run(tmp_path / "pool", is_pushed=False)
    assert go_on(pool.folder, tmp_path / "run") == 2
    assert "--resume-from: must be a run whose prototypes are patches with weights" in capsys.readouterr().err
    write_photos(tmp_path / "photos")
    (tmp_path / "photos" / "train" / CLASSES[0]).rename(tmp_path / "photos" / "train" / "other")
    (tmp_path / "photos" / "test" / CLASSES[0]).rename(tmp_path / "photos" / "test" / "other")
    assert go_on(edited, tmp_path / "run", "--data", str(tmp_path / "photos")) == 2
    assert "data: must have the 2 classes that the model was trained on" in capsys.readouterr().err


def test_other_data_need_a_push(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "made").mkdir()
    made = make_run(tmp_path / "made")
    write_photos(tmp_path / "photos")
    changes = {"train__joint_epochs": "0", "train__live_epochs": "1"}
    assert go_on(made.folder, tmp_path / "run", "--data", str(tmp_path / "photos"), **changes) == 2
    assert "train.joint_epochs: must be at least 1 to go on with a run on other data; got 0" in capsys.readouterr().err


def test_a_run_without_a_folder_gets_one_beside_the_others(
    edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume-from", str(edited), "--no-report"]) == 0
    assert (tmp_path / "runs" / "photos-1" / "forbidden.json").exists()
    assert "run folder: runs/photos-1" in capsys.readouterr().out
