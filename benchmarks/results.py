"""Rows of measurements in CSV files: written by the runs, read by the tables, never edited by hand."""

from __future__ import annotations

import csv
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULTS = Path(__file__).parent / "results"
SPEED = RESULTS / "speed.csv"
MEMORY = RESULTS / "memory.csv"
PUSH = RESULTS / "push.csv"
IMPORTANCE = RESULTS / "importance.csv"
POOL = RESULTS / "pool.csv"
FROZEN = RESULTS / "frozen.csv"
CHECKPOINTS = RESULTS / "checkpoints.csv"
LAST_LAYER = RESULTS / "last_layer.csv"
REPORT = RESULTS / "report.csv"
SEARCH = RESULTS / "search.csv"
Row = TypeVar("Row", bound="DataclassInstance")


def append_rows(path: Path, rows: list[Row]) -> None:
    """Add rows to a CSV file, with a header line when the file is new."""
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(rows[0])]
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """All rows of a file in the order they were written; none if it does not exist.

    Raises:
        ValueError: the columns of the file are not the fields of `kind`.
    """
    if not path.exists():
        return []
    names = [field.name for field in fields(kind)]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            raise ValueError(f"{path.name}: must have the columns {names}; got {reader.fieldnames}. Measure again.")
        return [
            kind(**{field.name: parse(str(field.type), line[field.name]) for field in fields(kind)}) for line in reader
        ]


def parse(kind: str, text: str) -> Any:
    """A CSV cell as its field's type; an empty cell is None where the field allows it."""
    if text == "" and kind.endswith("| None"):
        return None
    if kind.startswith("bool"):
        return text == "True"
    readers = {"int": int, "float": float, "str": str}
    return readers[kind.removesuffix(" | None")](text)
