"""What `train`, `evaluate` and the report say about how far a run can be trusted; each looks at the data once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from protokern.data import Splits, data_warnings
from protokern.evaluate import Scores
from protokern.quality import answer_warnings, model_warnings
from protokern.report.numbers import percent
from protokern.runs.open import OpenRun

MARK = "warning: "
_MOST_ROWS = 30  # classes in a table on a terminal; of more the worst are shown


def look_at(splits: Splits) -> Splits:
    """The same data with their warnings, found now unless they were before."""
    return splits if splits.warnings is not None else replace(splits, warnings=data_warnings(splits))


def run_warnings(run: OpenRun, splits: Splits | None, scores: Scores | None, images: str = "test") -> tuple[str, ...]:
    """All warnings: of the answers, of the prototypes and weights, of the data.

    Args:
        run: whose model it is.
        splits: the data; None: nothing is said of them.
        scores: of the answers to a split; None: likewise.
        images: of which split: "test", "validation" or "training".
    """
    answers = () if scores is None else answer_warnings(scores, run.classes, images)
    data = () if splits is None else look_at(splits).warnings or ()
    return (*answers, *model_warnings(run.model, run.push, run.classes), *data)


def marked(warnings: Iterable[str]) -> list[str]:
    """As lines of a log or a terminal."""
    return [f"{MARK}{warning}" for warning in warnings]


def score_table(scores: Scores, classes: Iterable[str], images: str) -> list[str]:
    """Precision, recall and F1 of every class as lines; of more than thirty classes those with the lowest F1.

    `images` says of which split: "test", "validation" or "training".
    """
    rows = list(zip(classes, scores.classes, strict=True))
    shown = rows
    if len(rows) > _MOST_ROWS:
        kept = sorted(range(len(rows)), key=lambda index: rows[index][1].f1 or 0.0)[:_MOST_ROWS]
        shown = [rows[index] for index in sorted(kept)]
    width = max(len("class"), *(len(name) for name, _ in shown))
    lines = [f"{'class':<{width}}  images  answers  correct  precision  recall      F1"]
    for name, one in shown:
        counts = f"{one.images:>6}  {one.answers:>7}  {one.correct:>7}"
        lines.append(
            f"{name:<{width}}  {counts}  {percent(one.precision):>9}  {percent(one.recall):>6}  {percent(one.f1):>6}"
        )
    if len(shown) < len(rows):
        lines.append(f"and {len(rows) - len(shown)} classes with a higher F1")
    lines.append(
        f"{sum(one.images for one in scores.classes)} {images} images: accuracy {percent(scores.accuracy)}, "
        f"balanced accuracy (mean recall) {percent(scores.balanced_accuracy)}, "
        f"mean F1 {percent(scores.macro_f1)}"
    )
    return lines
