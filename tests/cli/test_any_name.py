"""Runs, classes and photographs whose names are bytes that no text has, or that are as long as names can be."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest

from protokern.cli.main import main
from protokern.errors import DataError
from protokern.explain.prototypes import write_prototypes
from protokern.runs.data import check_classes
from protokern.storage.outputs import LISTING
from tests.cli import pushed_run
from tests.cli.pushed_run import PushedRun, make_run

CLASSES = ("\udce9t\udce9", "\u00e9" + "n" * 252)  # Latin-1, and 254 bytes
PHOTO = os.fsdecode(b"\xe9\n" + b"z" * 249 + b".png")  # both, in two lines
SETTINGS = ["model.backbone=tiny", "model.weights=none", "model.prototype_dim=8", "model.prototypes_per_class=1"]
SETTINGS += ["data.image_size=16", "train.warm_epochs=0", "train.joint_epochs=1", "train.push_start=100"]
SETTINGS += ["train.batch_size=8", "train.last_layer_path=1"]
TRAIN = ["train", "--recipe", "paper", *(word for change in SETTINGS for word in ("--set", change))]
NAMED = {
    "push": [],
    "prune": [],
    "neighbours": ["--k", "1", "--only", "0", "3", "--format", "svg", "--out", "out"],
    "prototypes": ["--format", "svg", "--class", CLASSES[0], "--out", "out"],
    "importance": ["--local", "--modifications", "hue", "--out", "out"],
    "report": ["--neighbours", "1"],
    "export": ["--format", "hub", "--out", "out"],
}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    root = tmp_path_factory.mktemp("names")
    write = pushed_run.write_photos

    def write_named(data: Path) -> None:
        write(data)
        for split in ("train", "test"):
            (data / split / CLASSES[0] / "0.png").rename(data / split / CLASSES[0] / PHOTO)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pushed_run, "CLASSES", CLASSES)
        patch.setattr(pushed_run, "write_photos", write_named)
        run = make_run(root)
    run.folder.rename(root / "run\udcff")
    folder = root / "run\udcff"
    write_prototypes(folder, run.model, run.splits, run.push)
    return PushedRun(folder, run.data, run.model, run.splits, run.push)


@pytest.mark.parametrize("verb", NAMED)
def test_every_command_takes_any_name(
    named: PushedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([verb, str(named.folder), *NAMED[verb]]) == 0
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.count("warning:") == captured.err.count("\n")


def test_data_of_any_name_are_inspected(named: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(named.data)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = [line.split() for line in captured.out.splitlines()]
    assert ["all", "2", "classes", "10", "2", "8"] in rows


def test_a_photograph_of_any_name_is_explained_under_names_that_a_file_system_takes(
    named: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = named.data / "test" / CLASSES[0] / PHOTO
    twin = tmp_path / "twin" / (PHOTO[:-5] + "y.png")  # of which only the last letter differs
    twin.parent.mkdir()
    shutil.copy(photo, twin)
    out = tmp_path / "out"
    command = ["explain", str(named.folder), str(photo), str(twin), "--format", "svg", "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().err.count("\n") == 0
    tables = sorted(out.glob("*.json"))
    assert len(tables) == 2
    assert {json.loads(path.read_text())["image"] for path in tables} == {photo.name, twin.name}
    assert len(list(out.iterdir())) == 7
    assert all(len(os.fsencode(path.name)) <= 255 for path in out.iterdir())
    assert all(path.name.startswith("\udce9\nzzz") for path in out.iterdir() if path.name != LISTING)
    assert main(command) == 0


def test_a_training_takes_any_name(named: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / ("r" * 254 + "\udcff")
    assert main([*TRAIN, "--data", str(named.data), "--out", str(folder)]) == 0
    assert "report" in capsys.readouterr().out
    assert "r" * 254 + "?" in (folder / "report" / "index.html").read_text(encoding="utf-8")


def test_names_are_printed_whatever_stdout_takes(
    named: PushedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.BytesIO()
    stdout = io.TextIOWrapper(printed, encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stdout)
    command = ["prototypes", str(named.folder), "--format", "svg", "--out", str(tmp_path / "\u9ce5\udce9")]
    assert main(command) == 0
    assert printed.getvalue().endswith(b"/\\u9ce5\\udce9/prototypes.svg\n")
    assert stdout.errors == "strict"


@pytest.mark.parametrize(
    ("argument", "flags"),
    [
        ("--data", ["--data", "{}"]),
        ("data.path", ["--set", 'data.path="{}"']),
        ("train.frozen_layers", ["--set", 'train.frozen_layers=["{}"]']),
        ("data.feature_store", ["--set", 'data.feature_store="{}"']),
    ],
)
def test_a_setting_that_no_file_can_hold_is_one_line_before_there_is_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, flags: list[str]
) -> None:
    given = [flag.format(tmp_path / "\udce9t\udce9") for flag in flags]
    assert main([*TRAIN, *given, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"protokern train: {argument}: must be UTF-8, because run.toml stores it; got '")
    assert r"\udce9t\udce9'. Rename it, or give a link to it with another name." in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_data_are_those_of_the_run_in_either_form_of_an_accent(
    named: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(named.data, data)
    for split in ("train", "test"):
        (data / split / CLASSES[1]).rename(data / split / unicodedata.normalize("NFD", CLASSES[1]))
    results = []
    for path in (named.data, data):
        assert main(["evaluate", str(named.folder), "--data", str(path)]) == 0
        results.append(capsys.readouterr().out.splitlines()[-1])
    assert results[0] == results[1]


def test_classes_in_another_order_would_mean_other_answers(named: PushedRun) -> None:
    with pytest.raises(DataError, match="must have the classes in the order that the model was trained on; class 0"):
        check_classes(named.splits, named.splits.classes[::-1])
