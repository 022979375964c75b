"""What `protokern metrics` prints and writes.

OUT/measures.json      all of it
OUT/measures.csv       one row for each number
OUT/duplicates.csv     one row for each pair of prototypes that say the same
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protokern.metrics import Estimate, MeasureResult, Pair
from protokern.storage.files import to_json_bytes, write_synced
from protokern.storage.outputs import Outputs

FORMAT = "protokern-measures-1"
NAMES = TABLE, NUMBERS, PAIRS = "measures.json", "measures.csv", "duplicates.csv"


def result_lines(results: Sequence[MeasureResult]) -> list[str]:
    """A line for each number: what it is, its value, its interval, and over how many images."""
    width = max((len(name) for one in results for name in one.estimates), default=0)
    lines = []
    for one in results:
        if one.left_out is not None:
            lines.append(f"{one.name}: {one.left_out}; left out")
            continue
        lines.append(one.name)
        lines += [f"  {name:<{width}}  {_say(number)}" for name, number in one.estimates.items()]
        notes = [f"{name}: {value}" for name, value in one.settings.items()]
        notes += [f"{name}: {number}" for name, number in one.skipped.items() if number]
        lines += [f"  ({'; '.join(notes)})"] if notes else []
    return lines


def _say(number: Estimate) -> str:
    def words(value: float) -> str:
        return f"{value:.1%}" if number.unit == "share" else f"{value:.4g}"

    if math.isnan(number.value):
        return "unknown: no image has it"
    interval = "" if number.low is None or number.high is None else f"  ({words(number.low)} to {words(number.high)})"
    return f"{words(number.value):>7}{interval}" + (f"  {number.images} images" if number.images else "")


def write_measures(outputs: Outputs, facts: Mapping[str, Any], results: Sequence[MeasureResult]) -> list[Path]:
    """Write the files; give their paths.

    Args:
        outputs: the folder, asked for with `NAMES`.
        facts: of the run and its images.
        results: of all measures that were asked for.

    Raises:
        CheckpointError: a file of somebody else has come in the way, or the disk refuses.
    """
    rows = [
        [one.name, name, _known(number.value), number.low, number.high, number.unit, number.images]
        for one in results
        for name, number in one.estimates.items()
    ]
    contents = {NUMBERS: _csv([["measure", "number", "value", "low", "high", "unit", "images"], *rows])}
    pairs = next((one.table for one in results if one.name == "duplicates"), None)
    if pairs is not None:
        contents[PAIRS] = _csv([Pair._fields, *(list(row.values()) for row in pairs)])
    contents[TABLE] = to_json_bytes({"format": FORMAT, **facts, "measures": {one.name: _entry(one) for one in results}})
    with outputs.writing(last=TABLE) as stage:
        for name, content in contents.items():
            write_synced(stage / name, content)
    if pairs is None:
        outputs.remove(PAIRS)  # of an earlier call: it would be taken for a part of this one
    return [outputs.folder / name for name in NAMES if name in contents]


def _entry(one: MeasureResult) -> dict[str, Any]:
    if one.left_out is not None:
        return {"left_out": one.left_out}
    numbers = {
        name: {"value": _known(n.value), "low": n.low, "high": n.high, "unit": n.unit, "images": n.images}
        for name, n in one.estimates.items()
    }
    entry = {"numbers": numbers, "settings": dict(one.settings), "skipped": dict(one.skipped)}
    return entry | ({"pairs": [dict(row) for row in one.table]} if one.name == "duplicates" else {})


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
