"""What `train`, `evaluate` and `report` print about how far a run can be trusted."""

from __future__ import annotations

from collections.abc import Iterable

from protokern.evaluate import Scores
from protokern.report.numbers import percent

MARK = "warning: "
_MOST_ROWS = 30  # classes in a table on a terminal; of more the worst are shown


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
