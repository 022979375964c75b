"""No command replaces or removes a file that it did not write: every one is asked to, and the files are compared."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.cli.main import main
from protokern.explain.prototypes import write_prototypes
from protokern.storage.outputs import LISTING
from tests.cli.pushed_run import CLASSES, PushedRun, make_run

SMALL = ["model.backbone=tiny", "model.weights=none", "model.prototype_dim=8", "data.image_size=16"]
TRAIN = ["train", "--recipe", "paper", *(word for change in SMALL for word in ("--set", change))]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    run = make_run(tmp_path_factory.mktemp("lost"))
    write_prototypes(run.folder, run.model, run.splits, run.push)
    return run


@pytest.fixture
def copied(pushed: PushedRun, tmp_path: Path) -> Path:
    """A copy of the run, to spoil."""
    shutil.copytree(pushed.folder, tmp_path / "run")
    return tmp_path / "run"


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Every file and link of a folder by its path."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *command: object) -> str:
    """The one line of a command that changes nothing in `folder`."""
    before = snapshot(folder)
    assert main([str(word) for word in command]) == 2
    assert snapshot(folder) == before
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err


def paint(path: Path, value: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(path)
    return path


@pytest.mark.parametrize("figure", ["png", "svg"])
def test_a_photograph_is_not_replaced_by_its_explanation(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], figure: str
) -> None:
    photo = paint(tmp_path / "own" / f"bird.{'png' if figure == 'png' else 'jpg'}")
    (photo.parent / "bird.svg").write_text("my drawing")
    explain = ("explain", pushed.folder, photo, "--format", figure, "--out")
    error = refused(capsys, tmp_path, *explain, photo.parent)
    assert f"own/bird.{figure}, which " in error
    assert "Move it away, or give another folder." in error
    (tmp_path / "link").symlink_to(photo.parent)
    assert f"link/bird.{figure}, which " in refused(capsys, tmp_path, *explain, tmp_path / "link")


def test_a_photograph_in_a_folder_of_explanations_is_not_replaced_by_that_of_another(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, mine = paint(tmp_path / "a" / "bird.jpg"), paint(tmp_path / "out" / "bird.png")
    error = refused(capsys, tmp_path, "explain", pushed.folder, other, "--out", mine.parent)
    assert "out/bird.png, which 'protokern explain' did not write" in error


def test_the_same_explanation_can_be_made_again_until_somebody_changes_it(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain = ["explain", str(pushed.folder), str(paint(tmp_path / "bird.jpg")), "--out", str(tmp_path)]
    assert main(explain) == 0
    first = snapshot(tmp_path)
    assert main(explain) == 0
    assert snapshot(tmp_path) == first
    capsys.readouterr()
    (tmp_path / "bird.json").write_text("my notes")
    assert "bird.json, which was changed since 'protokern explain' wrote it" in refused(capsys, tmp_path, *explain)
    figure = ["explain", pushed.folder, tmp_path / "bird.png", "--out", tmp_path]
    (tmp_path / "bird.json").unlink()
    assert "bird.png, which is an input of this command" in refused(capsys, tmp_path, *figure)


def test_photographs_of_one_name_get_explanations_of_their_own(pushed: PushedRun, tmp_path: Path) -> None:
    photos = [
        paint(tmp_path / "a" / "bird.png"),
        paint(tmp_path / "b" / "bird.jpg", 30),
        paint(tmp_path / "c" / "Bird.png", 90),  # one name for the file systems of other machines
        paint(tmp_path / "d" / "bird-2.png", 200),
    ]
    out = tmp_path / "out"
    assert main(["explain", str(pushed.folder), *map(str, photos), "--out", str(out), "--format", "svg"]) == 0
    assert {path.name for path in out.glob("*.json")} == {"bird.json", "bird-2.json", "Bird-3.json", "bird-2-2.json"}
    assert {path.suffix for path in out.iterdir()} == {".html", ".svg", ".json", ".jsonl"}
    assert len(list(out.iterdir())) == 3 * len(photos) + 1


@pytest.mark.parametrize("place", ["", f"test/{CLASSES[1]}", "explained"])
@pytest.mark.parametrize("verb", ["explain", "neighbours", "prototypes", "importance", "export"])
def test_no_output_goes_among_the_data(
    pushed: PushedRun, capsys: pytest.CaptureFixture[str], verb: str, place: str
) -> None:
    photo = str(pushed.data / "test" / CLASSES[0] / "0.png")
    image = {"explain": [photo], "export": ["--format", "hub"]}.get(verb, [])
    error = refused(capsys, pushed.data, verb, pushed.folder, *image, "--out", pushed.data / place)
    assert "--out: must be outside of the data folder" in error


def test_no_output_goes_where_a_class_is_linked_to(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pushed.data, tmp_path / "data")
    shutil.move(tmp_path / "data" / "test" / CLASSES[0], tmp_path / "pool")
    (tmp_path / "data" / "test" / CLASSES[0]).symlink_to(tmp_path / "pool")
    command = ("neighbours", pushed.folder, "--data", tmp_path / "data", "--out", tmp_path / "pool" / "new")
    assert "--out: must be outside of the data folder" in refused(capsys, tmp_path, *command)


@pytest.mark.parametrize("name", ["prototypes", "report", "checkpoints/push-2", "importance"])
def test_no_output_goes_where_the_run_keeps_its_own(
    copied: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (copied / "report").mkdir()
    (copied / "importance").mkdir()
    photo = paint(copied.parent / "index.png")
    error = refused(capsys, copied, "explain", copied, photo, "--out", copied / name)
    assert "--out: must not be a folder that the run keeps for itself" in error


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["neighbours", "--k", "1"], "neighbours.json"),
        (["neighbours", "--k", "1"], "prototype-0003.png"),
        (["prototypes"], "prototypes.png"),
        (["prototypes", "--format", "pdf"], "prototypes.pdf"),
        (["importance"], "test.csv"),
        (["importance"], "importance.svg"),
        (["importance", "--local"], "train-local.csv"),
        (["importance", "--images", "photo.jpg"], "images.csv"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_file_where_a_result_will_be_is_found_before_the_work(
    pushed: PushedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    name: str,
) -> None:
    monkeypatch.chdir(paint(tmp_path / "photo.jpg").parent)
    monkeypatch.setattr("protokern.data.folder.inspect_photos", lambda *_, **__: pytest.fail("the work began"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    verb, *flags = command
    error = refused(capsys, tmp_path, verb, pushed.folder, *flags, "--out", "out")
    assert f"out/{name}, which 'protokern {verb}' did not write" in error


def test_a_second_page_of_prototypes_replaces_nothing_either(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prototypes-2.png").write_text("mine")
    command = ["prototypes", pushed.folder, "--out", tmp_path, "--columns", "2", "--rows", "2"]
    assert "prototypes-2.png, which 'protokern prototypes' did not write" in refused(capsys, tmp_path, *command)


def test_local_scores_of_an_earlier_run_go_and_those_of_somebody_else_stay(pushed: PushedRun, tmp_path: Path) -> None:
    command = ["importance", str(pushed.folder), "--out", str(tmp_path), "--modifications", "hue"]
    (tmp_path / "train-local.csv").write_text("mine")
    assert main(command) == 0
    assert (tmp_path / "train-local.csv").read_text() == "mine"
    (tmp_path / "train-local.csv").unlink()
    assert main([*command, "--local"]) == 0
    assert main(command) == 0
    assert not (tmp_path / "train-local.csv").exists()


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("push", "prototypes/notes.txt"),
        ("prune", "prototypes/notes.txt"),
        ("push", "prototypes/0000-box.png"),
        ("report", "report/index.html"),
    ],
)
def test_what_somebody_put_into_the_folders_of_a_run_stays(
    pushed: PushedRun, copied: Path, capsys: pytest.CaptureFixture[str], verb: str, name: str
) -> None:
    (copied / "report").mkdir()
    (copied / "report" / LISTING).write_text('{"format": "protokern-outputs-1"}\n')
    (copied / name).write_text("mine")
    error = refused(capsys, copied, verb, copied, "--data", pushed.data)
    assert Path(name).name in error
    assert "Move it away" in error


def test_a_run_of_a_version_without_listings_is_reported_and_pushed(pushed: PushedRun, copied: Path) -> None:
    (copied / "prototypes" / LISTING).unlink()
    (copied / "report").mkdir()
    (copied / "report" / "index.html").write_text("an older page")
    assert main(["push", str(copied)]) == 0
    assert main(["report", str(copied), "--neighbours", "0"]) == 0
    assert main(["report", str(copied), "--neighbours", "0"]) == 0
    assert "an older page" not in (copied / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", ["", "train", f"train/{CLASSES[0]}", "run"])
def test_no_run_begins_among_its_data(pushed: PushedRun, capsys: pytest.CaptureFixture[str], place: str) -> None:
    error = refused(capsys, pushed.data, *TRAIN, "--data", pushed.data, "--out", pushed.data / place)
    assert "--out: must be outside of the data folder" in error


def test_no_run_begins_around_data_that_it_would_write_over(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pushed.data, tmp_path / "prototypes")
    error = refused(capsys, tmp_path, *TRAIN, "--data", tmp_path / "prototypes", "--out", tmp_path)
    assert "which has prototypes. Choose another folder" in error
    (tmp_path / "prototypes").rename(tmp_path / "features")
    error = refused(capsys, tmp_path, *TRAIN, "--data", tmp_path / "features", "--out", tmp_path)
    assert "--out: must not be a folder whose features/ holds the data" in error


@pytest.mark.parametrize("name", ["log.jsonl", "metrics.json", "report/index.html", "importance/a.csv", "prototypes/a"])
def test_no_run_begins_in_a_folder_with_other_files_in_its_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    error = refused(capsys, tmp_path, *TRAIN, "--out", tmp_path)
    assert f"which has {name.partition('/')[0]}. Choose another folder" in error


@pytest.mark.parametrize("store", ["", "train", "new"])
def test_no_features_go_among_the_data(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], store: str
) -> None:
    frozen = ("--set", "train.backbone=frozen", "--set", f'data.feature_store="{pushed.data / store}"')
    error = refused(capsys, pushed.data, *TRAIN, *frozen, "--data", pushed.data, "--out", tmp_path / "run")
    assert "data.feature_store: must be outside of the data folder" in error
    assert not (tmp_path / "run").exists()


def test_features_that_cannot_be_written_are_told_before_there_is_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store" / "test").mkdir(parents=True)
    (tmp_path / "store" / "test" / "thesis.txt").write_text("mine")
    frozen = ("--set", "train.backbone=frozen", "--set", f'data.feature_store="{tmp_path / "store"}"')
    error = refused(capsys, tmp_path, *TRAIN, *frozen, "--out", tmp_path / "run")
    assert "must be empty or a feature store; it holds thesis.txt" in error
    assert not (tmp_path / "run").exists()
