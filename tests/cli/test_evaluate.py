"""`protokern evaluate`: the numbers of every class, on the screen, as JSON and as CSV, and what it will not replace."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from protokern.cli.main import main
from protokern.storage.outputs import LISTING
from tests.cli.pushed_run import CLASSES, PushedRun, make_run
from tests.report.test_page import read_page

FILES = ["evaluation-classes.csv", "evaluation-confusion.csv", "evaluation.json"]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    made = make_run(tmp_path_factory.mktemp("pushed"))
    names = [made.splits.train.sample_name(index) for index in range(len(made.splits.train))]
    shutil.copy(made.data / names[0], made.data / "test" / CLASSES[1] / "copy.png")
    return made


def confusion_by_hand(made: PushedRun, split: str) -> list[list[int]]:
    from protokern.data import open_splits

    splits = open_splits(made.data, image_size=32, val_fraction=0.34)
    images = getattr(splits, split)
    counts = [[0, 0], [0, 0]]
    with torch.no_grad():
        for index in range(len(images)):
            image, label = images[index]
            counts[label][int(made.model(image[None]).logits.argmax())] += 1
    return counts


@pytest.mark.parametrize(("flag", "split"), [("test", "test"), ("val", "val"), ("train", "push")])
def test_the_files_hold_the_numbers_of_every_class(
    pushed: PushedRun, tmp_path: Path, flag: str, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(pushed.folder), "--split", flag, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    line = json.loads(printed[-1])
    table = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    counts = confusion_by_hand(pushed, split)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [LISTING, *FILES]
    assert table["confusion"] == counts
    assert {key: table[key] for key in line} == line
    assert line["images"] == sum(map(sum, counts))
    assert line["accuracy"] == pytest.approx((counts[0][0] + counts[1][1]) / line["images"])
    recalls = [counts[0][0] / sum(counts[0]), counts[1][1] / sum(counts[1])]
    assert line["balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
    assert [row["recall"] for row in table["classes"]] == pytest.approx(recalls)
    with (tmp_path / "out" / "evaluation-classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert [float(row["recall"]) for row in rows] == pytest.approx(recalls)
    with (tmp_path / "out" / "evaluation-confusion.csv").open() as file:
        header, *body = csv.reader(file)
    assert header == ["true class", *CLASSES]
    assert [[int(value) for value in row[1:]] for row in body] == counts
    assert any(text.startswith(CLASSES[0]) for text in printed)


def test_what_speaks_against_the_run_is_said_and_written(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(pushed.folder), "--out", str(tmp_path)]) == 0
    said = [text.removeprefix("warning: ") for text in capsys.readouterr().out.splitlines() if "warning: " in text]
    assert any(
        "of 9 test images is a training image (1 by their bytes): test/down/copy.png is " in text for text in said
    )
    assert any("classes have fewer than 10 training images" in text for text in said)
    assert json.loads((tmp_path / "evaluation.json").read_text())["warnings"] == said


def test_an_earlier_evaluation_is_replaced(pushed: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("test", "train"):
        assert main(["evaluate", str(pushed.folder), "--split", split]) == 0
        assert json.loads((pushed.folder / "evaluation.json").read_text())["split"] == split


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"mine", b'{"format": "protokern-evaluation-1"}', b""])
def test_a_file_of_somebody_else_stays(
    pushed: PushedRun, tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["evaluate", str(pushed.folder), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"--out: must hold no files of others that would be replaced; got {tmp_path / name}" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == content


def test_a_file_that_was_changed_since_stays(
    pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(pushed.folder), "--out", str(tmp_path)]) == 0
    classes = tmp_path / "evaluation-classes.csv"
    classes.write_text(classes.read_text() + "a note of mine\n")
    kept = classes.read_bytes()
    assert main(["evaluate", str(pushed.folder), "--out", str(tmp_path)]) == 2
    assert "which was changed since 'protokern evaluate' wrote it. Move it away" in capsys.readouterr().err
    assert classes.read_bytes() == kept


def test_a_link_is_not_written_through(pushed: PushedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.png").write_bytes(b"a photograph")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.json").symlink_to(tmp_path / "photo.png")
    assert main(["evaluate", str(pushed.folder), "--out", str(tmp_path / "out")]) == 2
    assert (tmp_path / "photo.png").read_bytes() == b"a photograph"


def test_a_run_that_may_only_be_read_is_still_evaluated(
    pushed: PushedRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    may = os.access

    def read_only(path: os.PathLike[str], mode: int) -> bool:
        return may(path, mode) and not (mode & os.W_OK and pushed.folder in (Path(path), *Path(path).parents))

    monkeypatch.setattr(os, "access", read_only)
    assert main(["evaluate", str(pushed.folder)]) == 0
    printed = capsys.readouterr().out
    assert "The numbers were not written, only printed: " in printed
    assert json.loads(printed.splitlines()[-1])["images"] == 9
    assert main(["evaluate", str(pushed.folder), "--out", str(pushed.folder / "x")]) == 2


def test_the_page_says_it_too(pushed: PushedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(pushed.folder), "--neighbours", "0"]) == 0
    assert "warning: 1 of 9 test images is a training image" in capsys.readouterr().out
    page = (pushed.folder / "report" / "index.html").read_text()
    assert "Before you trust it" in page
    assert "1 of 9 test images is a training image" in page
    assert read_page(page)["confusion"]["scores_label"] == "Scores of the classes"  # the name of the table, for readers
    assert "Recall: of the images of the class, those that were found." in page
