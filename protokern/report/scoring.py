"""The scoring sheet of a run: what each class is scored by, as the page shows it. No HTML here."""

from __future__ import annotations

from typing import Any

from protokern.report.numbers import decimal
from protokern.report.words import say_nothing
from protokern.results.explanations import ClassExplanation, Explanation
from protokern.results.run import Report

LARGEST_ILLUSTRATED = 240  # entries; larger sheets show numbers without pictures
_TEXT = (
    "The score of a class is the sum over its row: how present each prototype is in a picture, from 0 to 1, times its "
    "weight. Weights are never negative, and most are 0 and left out. A picture in which no class finds any of its "
    "prototypes gets no answer."
)


def view_scoring(report: Report) -> dict[str, Any] | None:
    """The sheet as a table: a row for each class, with [prototype, text of its link, weight] for each weight."""
    if report.scoring is None:
        return None
    entries = sum(len(row.weights) for row in report.scoring)
    has_pictures = entries <= LARGEST_ILLUSTRATED and any(one.picture for one in report.prototypes)
    used = {index for row in report.scoring for index, _ in row.weights}
    bare = [row.class_name for row in report.scoring if not row.weights]
    text = [
        _TEXT,
        f"{len(used)} prototypes have a weight for some class; a class has "
        f"{decimal(entries / max(1, len(report.scoring)))} on average.",
    ]
    if bare:
        text.append(f"Never the answer, because nothing scores for {'it' if len(bare) == 1 else 'them'}:")
        text[-1] += f" {', '.join(bare[:5])}{' and more' if len(bare) > 5 else ''}."
    return {
        "title": "The scoring sheet",
        "text": text,
        "label": "Weights of the prototypes by class",
        "has_pictures": has_pictures,
        "rows": [
            [row.class_name, [[index, f"Prototype {index}", decimal(weight)] for index, weight in row.weights]]
            for row in report.scoring
        ],
    }


def view_no_answer(one: ClassExplanation, item: Explanation) -> dict[str, Any]:
    """Why an image has no answer, as the evidence for a class is shown; `one` has the highest score."""
    return {
        "reasons": [],
        "none": [say_nothing(item)],
        "counted": None,
        "no_reasons": [],
        "ledger": [],
        "total": [["highest total of a class"], f"{decimal(one.total)} points"],
    }
