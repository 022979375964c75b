"""The files of `protokern evaluate`: every number as JSON, the classes and the confusion matrix as CSV.

OUT/evaluation.json               all of it
OUT/evaluation-classes.csv        one row per class
OUT/evaluation-confusion.csv      one row per true class, one column per answer
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protokern.results.scores import ClassScore, Scores
from protokern.storage.files import to_json_bytes, write_synced
from protokern.storage.outputs import Outputs

FORMAT = "protokern-evaluation-1"
NAMES = TABLE, CLASSES, CONFUSION = "evaluation.json", "evaluation-classes.csv", "evaluation-confusion.csv"


def write_evaluation(
    outputs: Outputs,
    facts: Mapping[str, Any],
    scores: Scores,
    classes: Sequence[str],
    confusion: Sequence[Sequence[int]],
    warnings: Sequence[str],
) -> list[Path]:
    """Write the three files; return their paths.

    Args:
        outputs: the folder, claimed for `NAMES`.
        facts: the numbers of the evaluation as a whole, as in the last line that the verb prints.
        scores: class by class.
        classes: names.
        confusion: (K, K) counts, row = true class.
        warnings: sentences.

    Raises:
        CheckpointError: one of the names is taken by a file of others, or the disk is full or not writable.
    """
    rows = [_class_row(name, one) for name, one in zip(classes, scores.classes, strict=True)]
    contents = {
        CLASSES: _csv([list(rows[0]), *(["" if value is None else value for value in row.values()] for row in rows)]),
        CONFUSION: _csv(
            [["true class", *classes], *([name, *row] for name, row in zip(classes, confusion, strict=True))]
        ),
    }
    table = {
        "format": FORMAT,
        **facts,
        "classes": rows,
        "confusion": [list(row) for row in confusion],
        "warnings": list(warnings),
    }
    contents[TABLE] = to_json_bytes(table)
    with outputs.writing(last=TABLE) as stage:
        for name, content in contents.items():
            write_synced(stage / name, content)
    return [outputs.folder / name for name in NAMES]


def _class_row(name: str, one: ClassScore) -> dict[str, Any]:
    return {
        "class": name,
        "images": one.images,
        "answers": one.answers,
        "correct": one.correct,
        "precision": one.precision,
        "recall": one.recall,
        "f1": one.f1,
    }


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
