"""The files of `protokern metrics`.

OUT/measures.json      all of it
OUT/measures.csv       one row for each number
OUT/MEASURE.csv        the rows of a measure with details, such as duplicates.csv: one row for each pair of prototypes
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protokern.metrics.registry import MEASURES
from protokern.metrics.results import MeasureResult
from protokern.storage.files import to_json_bytes, write_synced
from protokern.storage.outputs import Outputs

FORMAT = "protokern-measures-1"
TABLE, NUMBERS = "measures.json", "measures.csv"


def file_names() -> tuple[str, ...]:
    """The names of all files that a call may write."""
    return (TABLE, NUMBERS, *(f"{name}.csv" for name, measure in MEASURES.items() if measure.details is not None))


def write_measures(outputs: Outputs, facts: Mapping[str, Any], results: Sequence[MeasureResult]) -> list[Path]:
    """Write the files; return their paths.

    Args:
        outputs: the folder, claimed for `file_names()`.
        facts: of the run and its images.
        results: of all measures that were asked for.

    Raises:
        CheckpointError: one of the names is taken by a file of others, or the disk is full or not writable.
    """
    numbers = [
        [one.name, name, _known(number.value), number.low, number.high, number.unit, number.images]
        for one in results
        for name, number in one.estimates.items()
    ]
    contents = {NUMBERS: _csv([["measure", "number", "value", "low", "high", "unit", "images"], *numbers])}
    for one in results:
        details = MEASURES[one.name].details
        if details is not None and one.left_out is None:
            rows = [[row[column] for column in details.columns] for row in one.table]
            contents[f"{one.name}.csv"] = _csv([details.columns, *rows])
    contents[TABLE] = to_json_bytes({"format": FORMAT, **facts, "measures": {one.name: _entry(one) for one in results}})
    with outputs.writing(last=TABLE) as stage:
        for name, content in contents.items():
            write_synced(stage / name, content)
    for name in file_names():
        if name not in contents:
            outputs.remove(name)  # written by an earlier call, and no part of this one
    return [outputs.folder / name for name in file_names() if name in contents]


def _entry(one: MeasureResult) -> dict[str, Any]:
    if one.left_out is not None:
        return {"left_out": one.left_out}
    numbers = {
        name: {"value": _known(n.value), "low": n.low, "high": n.high, "unit": n.unit, "images": n.images}
        for name, n in one.estimates.items()
    }
    entry = {"numbers": numbers, "settings": dict(one.settings), "skipped": dict(one.skipped)}
    details = MEASURES[one.name].details
    return entry if details is None else entry | {details.rows: [dict(row) for row in one.table]}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
