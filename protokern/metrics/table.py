"""The results of measures as one table, with its JSON and its CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protokern.metrics.registry import MEASURES
from protokern.metrics.results import Column, MeasureResult
from protokern.storage.files import to_json_bytes

FORMAT = "protokern-measures-1"
COLUMNS = ("measure", "number", "value", "low", "high", "unit", "images", "prototypes")


@dataclass(frozen=True, slots=True)
class MetricTable:
    """What all measures of one call found; `table["purity"]` is the result of one.

    Attributes:
        results: one for each measure, also for those that were left out.
        facts: of the model and its images; they come first in the JSON.
    """

    results: tuple[MeasureResult, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> MeasureResult:
        for one in self.results:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def passes(self) -> dict[str, int]:
        """How many images went through the net for all of it: "unchanged" ones, through the net as it is, and others.

        Those of the pass that all measures share are among the unchanged ones.
        """
        unchanged = max((one.shared for one in self.results), default=0) + sum(one.unchanged for one in self.results)
        return {"unchanged": unchanged, "changed": sum(one.passes - one.unchanged for one in self.results)}

    def rows(self) -> list[tuple[Any, ...]]:
        """One row for each number, in the order of `COLUMNS`; None where there is no value or interval."""
        return [
            (one.name, name, _known(n.value), n.low, n.high, n.unit, n.images, n.prototypes)
            for one in self.results
            for name, n in one.estimates.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data, with None for NaN."""
        measures = {one.name: _entry(one) for one in self.results}
        return {"format": FORMAT, **self.facts, "passes": self.passes, "measures": measures}

    def to_json(self) -> str:
        """All of it."""
        return to_json_bytes(self.to_dict()).decode()

    def to_csv(self) -> str:
        """One row for each number."""
        return to_csv([COLUMNS, *self.rows()])

    def prototypes_csv(self) -> str | None:
        """One row for each prototype, one column for each number; None if no measure has any."""
        return _wide("prototype", {one.name: one.prototypes for one in self.results})

    def classes_csv(self) -> str | None:
        """One row for each class, one column for each number; None if no measure has any."""
        return _wide("class", {one.name: one.classes for one in self.results})


def to_csv(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as comma-separated values; None and NaN are empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["" if _is_nan(cell) else cell for cell in row] for row in rows])
    return text.getvalue()


def _wide(index: str, columns: Mapping[str, Mapping[str, Column]]) -> str | None:
    named = {f"{measure}: {name}": column for measure, some in columns.items() for name, column in some.items()}
    if not named:
        return None
    rows = zip(*named.values(), strict=True)
    return to_csv([[index, *named], *([number, *row] for number, row in enumerate(rows))])


def _entry(one: MeasureResult) -> dict[str, Any]:
    if one.left_out is not None:
        return {"left_out": one.left_out}
    numbers = {
        name: {
            "value": _known(n.value),
            "low": n.low,
            "high": n.high,
            "unit": n.unit,
            "images": n.images,
            "prototypes": n.prototypes,
        }
        for name, n in one.estimates.items()
    }
    entry = {
        "numbers": numbers,
        "settings": dict(one.settings),
        "skipped": dict(one.skipped),
        "passes": one.passes,
        "unchanged": one.unchanged,
        "shared": one.shared,
        "by_prototype": {name: [_known(value) for value in column] for name, column in one.prototypes.items()},
        "by_class": {name: [_known(value) for value in column] for name, column in one.classes.items()},
    }
    details = MEASURES[one.name].details
    return entry if details is None else entry | {details.rows: [dict(row) for row in one.table]}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _known(value: Any) -> Any:
    return None if _is_nan(value) else value
