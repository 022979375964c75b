"""The five lines at the end of a training: how good it is, where it is weak, what to doubt, and what to do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from protokern.report.numbers import percent
from protokern.results.run import Report
from protokern.results.scores import ClassScore, Scores
from protokern.storage.names import one_line

_CONFIDENCE = 0.95


def closing_lines(report: Report, page: Path, run: Path) -> list[str]:
    """Accuracy, weakest class, warnings, page, and the next command.

    Args:
        report: what the page shows.
        page: where it is.
        run: the run folder, as the user wrote it.
    """
    scores = report.scores
    has_images = scores is not None and any(one.images for one in scores.classes)
    first = (
        [say_accuracy(scores), say_weakest(scores, report.classes)]
        if scores is not None and has_images
        else ["accuracy: unknown, for there are no test images", "weakest class: unknown, for there are no test images"]
    )
    folder = shlex.quote(str(run))
    return [
        *first,
        say_warnings(report.warnings),
        f"report: {page}",
        f"next: open the report, or explain a photograph: protokern explain {folder} PHOTO --out {folder}/explained",
    ]


def say_accuracy(scores: Scores) -> str:
    """Accuracy with its interval, against the answer that is right most often without looking."""
    images, correct = (sum(getattr(one, name) for one in scores.classes) for name in ("images", "correct"))
    largest = max(one.images for one in scores.classes) / images
    return f"accuracy: {say_share(correct, images)}; always answering the largest class gives {percent(largest)}"


def say_share(correct: int, images: int) -> str:
    """The share of right answers among test images, with Wilson's interval."""
    from scipy.stats import binomtest  # takes half a second

    interval = binomtest(correct, images).proportion_ci(_CONFIDENCE, method="wilson")
    return (
        f"{percent(correct / images)} of {images:,} test images (95 % interval {percent(interval.low)} to "
        f"{percent(interval.high)})"
    )


def say_weakest(scores: Scores, classes: Sequence[str]) -> str:
    """The class of which the smallest share of the images was found; of several the one with the most images."""

    def rank(entry: tuple[str, ClassScore]) -> tuple[float, int]:
        return entry[1].correct / entry[1].images, -entry[1].images

    name, weakest = min(
        ((name, one) for name, one in zip(classes, scores.classes, strict=True) if one.images), key=rank
    )
    return (
        f"weakest class: {one_line(name)}, {weakest.correct} of {weakest.images} images right "
        f"({percent(weakest.correct / weakest.images)})"
    )


def say_warnings(warnings: Sequence[str]) -> str:
    """How many warnings there are, and the first sentence of the first."""
    if not warnings:
        return "warnings: none"
    start = re.split(r"(?<=[.!?])\s", one_line(warnings[0]), maxsplit=1)[0]
    return f"warnings: {len(warnings)}, the first: {start}" if len(warnings) > 1 else f"warnings: 1: {start}"
