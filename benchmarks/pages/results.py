"""Rows of measurements in CSV files: written by the runs, read by the tables, never edited by hand."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.commit import ROOT

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULTS = ROOT / "benchmarks" / "results"
SPEED = RESULTS / "speed.csv"
MEMORY = RESULTS / "memory.csv"
PUSH = RESULTS / "push.csv"
IMPORTANCE = RESULTS / "importance.csv"
POOL = RESULTS / "pool.csv"
HEADS = RESULTS / "heads.csv"
ONNX = RESULTS / "onnx.csv"
FROZEN = RESULTS / "frozen.csv"
CHECKPOINTS = RESULTS / "checkpoints.csv"
LAST_LAYER = RESULTS / "last_layer.csv"
REPORT = RESULTS / "report.csv"
APP = RESULTS / "app.csv"
FRAMES = RESULTS / "frames.csv"
BACKBONE = RESULTS / "backbone.csv"
SEARCH = RESULTS / "search.csv"
WEIGHTS = RESULTS / "weights.csv"
METRICS = RESULTS / "metrics.csv"
DEVICE = RESULTS / "device.csv"
Row = TypeVar("Row", bound="DataclassInstance")


def append_rows(path: Path, rows: list[Row]) -> None:
    """Add rows to a CSV file, with a header line when the file is new."""
    append_dicts(path, [asdict(row) for row in rows])


def append_dicts(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The same for rows as dicts in the order of the columns. A file from before a column existed gets it, empty.

    Raises:
        ValueError: the file has other columns than the rows.
    """
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(rows[0])
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        add_columns(path, names)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def add_columns(path: Path, names: Sequence[str]) -> None:
    """Give a file the columns that it lacks at the end of `names`; nothing where it has them.

    Raises:
        ValueError: it differs in more than that.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        found = list(reader.fieldnames or ())
        if found == list(names):
            return
        if found != list(names)[: len(found)]:
            raise ValueError(f"{path.name}: must have the columns {list(names)}; got {found}. Measure again.")
        lines = list(reader)
    whole = path.with_name(f"{path.name}.new")
    with whole.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    whole.replace(path)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """All rows of a file in the order they were written; none if it does not exist.

    A column at the end that the file is too old to have is that field's default.

    Raises:
        ValueError: the columns of the file are not the fields of `kind`.
    """
    if not path.exists():
        return []
    names = [field.name for field in fields(kind)]
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        found = list(reader.fieldnames or ())
        if found != names[: len(found)] or len(found) < len(needed):
            raise ValueError(f"{path.name}: must have the columns {names}; got {reader.fieldnames}. Measure again.")
        known = [field for field in fields(kind) if field.name in found]
        return [kind(**{field.name: parse(str(field.type), line[field.name]) for field in known}) for line in reader]


def parse(kind: str, text: str) -> Any:
    """A CSV cell as its field's type; an empty cell is None where the field allows it."""
    if text == "" and kind.endswith("| None"):
        return None
    if kind.startswith("bool"):
        return text == "True"
    readers = {"int": int, "float": float, "str": str}
    return readers[kind.removesuffix(" | None")](text)


@dataclass(frozen=True)
class Place:
    """Where a verb puts its tables into a page: between two comments.

    Attributes:
        name: of what stands there.
        verb: that makes it.
    """

    name: str
    verb: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.name} begin: made by `python -m benchmarks {self.verb} --write`, do not edit -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.name} end -->"

    def insert(self, page: str, text: str) -> str:
        """`page` with what stands there replaced by `text`.

        Raises:
            ValueError: a comment is missing.
        """
        if self.begin not in page or self.end not in page:
            raise ValueError(f"page: must have the lines {self.begin!r} and {self.end!r}; got a text without them.")
        before, _, rest = page.partition(self.begin)
        return f"{before}{self.begin}\n{text}\n{self.end}{rest.partition(self.end)[2]}"

    def write(self, path: Path, text: str) -> None:
        path.write_text(self.insert(path.read_text(encoding="utf-8"), text), encoding="utf-8")
