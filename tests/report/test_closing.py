"""The lines at the end of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from protokern.report.closing import closing_lines, say_accuracy, say_weakest
from protokern.results.run import Report
from protokern.results.scores import ClassScore, Scores

CLASSES = ("cat", "dog", "owl")
SCORES = Scores((ClassScore(10, 9, 8), ClassScore(4, 5, 2), ClassScore(6, 6, 3)))


def report(scores: Scores | None = SCORES, *warnings: str) -> Report:
    return Report(title="run", classes=CLASSES, prototypes=(), scores=scores, warnings=warnings)


def test_the_lines_of_a_run() -> None:
    page = Path("runs/my cats-1/report/index.html")
    told = report(SCORES, "2 of 3 classes have few images: dog, owl. Add images.", "another.")
    assert closing_lines(told, page, Path("runs/my cats-1")) == [
        # Wilson's interval of 13 of 20, by hand: centre (13 + 1.9207) / 23.8415, half width 0.1913.
        "accuracy: 65.0% of 20 test images (95 % interval 43.3% to 81.9%); always answering the largest class gives "
        "50.0%",
        "weakest class: owl, 3 of 6 images right (50.0%)",
        "warnings: 2, the first: 2 of 3 classes have few images: dog, owl.",
        "report: runs/my cats-1/report/index.html",
        "next: open the report, or explain a photograph: protokern explain 'runs/my cats-1' PHOTO --out "
        "'runs/my cats-1'/explained",
    ]


@pytest.mark.parametrize("scores", [None, Scores((ClassScore(0, 0, 0),) * 3)])
def test_without_test_images_nothing_is_claimed(scores: Scores | None) -> None:
    lines = closing_lines(report(scores), Path("page"), Path("run"))
    assert len(lines) == 5
    assert lines[:3] == [
        "accuracy: unknown, for there are no test images",
        "weakest class: unknown, for there are no test images",
        "warnings: none",
    ]


def test_all_right_is_an_interval_too() -> None:
    scores = Scores((ClassScore(3, 3, 3), ClassScore(1, 1, 1)))
    # 1 / (1 + 1.9599640 ** 2 / 4)
    assert say_accuracy(scores).startswith("accuracy: 100.0% of 4 test images (95 % interval 51.0% to 100.0%); ")
    assert say_weakest(scores, ("a", "b")) == "weakest class: a, 3 of 3 images right (100.0%)"


def test_a_class_without_images_is_not_the_weakest() -> None:
    scores = Scores((ClassScore(0, 2, 0), ClassScore(4, 2, 2)))
    assert say_weakest(scores, ("a", "b")) == "weakest class: b, 2 of 4 images right (50.0%)"
    assert say_weakest(scores, ("a", "\x1bb")).isprintable()
