"""The files of `protokern metrics`.

OUT/measures.json             all of it
OUT/measures.csv              one row for each number
OUT/measures-prototypes.csv   one row for each prototype
OUT/measures-classes.csv      one row for each class
OUT/MEASURE.csv               the rows of a measure with details, such as duplicates.csv: one row for each pair
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protokern.metrics.registry import MEASURES
from protokern.metrics.results import MeasureResult
from protokern.metrics.table import MetricTable, to_csv
from protokern.storage.files import write_synced
from protokern.storage.outputs import Outputs

TABLE, NUMBERS = "measures.json", "measures.csv"
PROTOTYPES, CLASSES = "measures-prototypes.csv", "measures-classes.csv"


def file_names() -> tuple[str, ...]:
    """The names of all files that a call may write."""
    details = (f"{name}.csv" for name, measure in MEASURES.items() if measure.details is not None)
    return (TABLE, NUMBERS, PROTOTYPES, CLASSES, *details)


def write_measures(outputs: Outputs, facts: Mapping[str, Any], results: Sequence[MeasureResult]) -> list[Path]:
    """Write the files; return their paths.

    Args:
        outputs: the folder, claimed for `file_names()`.
        facts: of the run and its images.
        results: of all measures that were asked for.

    Raises:
        CheckpointError: one of the names is taken by a file of others, or the disk is full or not writable.
    """
    table = MetricTable(tuple(results), facts)
    contents = {NUMBERS: table.to_csv()}
    for name, text in ((PROTOTYPES, table.prototypes_csv()), (CLASSES, table.classes_csv())):
        if text is not None:
            contents[name] = text
    for one in results:
        details = MEASURES[one.name].details
        if details is not None and one.left_out is None:
            rows = [[row[column] for column in details.columns] for row in one.table]
            contents[f"{one.name}.csv"] = to_csv([details.columns, *rows])
    contents[TABLE] = table.to_json()
    with outputs.writing(last=TABLE) as stage:
        for name, content in contents.items():
            write_synced(stage / name, content.encode("utf-8", "surrogateescape"))
    for name in file_names():
        if name not in contents:
            outputs.remove(name)  # written by an earlier call, and no part of this one
    return [outputs.folder / name for name in file_names() if name in contents]
