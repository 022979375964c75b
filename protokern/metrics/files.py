"""The files of `protokern metrics`.

OUT/measures.json             all of it
OUT/measures.csv              one row for each number
OUT/measures-prototypes.csv   one row for each prototype
OUT/measures-classes.csv      one row for each class
OUT/MEASURE.csv               the rows of a measure with details, such as duplicates.csv: one row for each pair
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protokern.errors import CheckpointError
from protokern.features import fingerprint_of_weights
from protokern.metrics.random_prototypes import DRAWN_FROM
from protokern.metrics.registry import MEASURES
from protokern.metrics.results import Estimate, MeasureResult
from protokern.metrics.table import FORMAT, MetricTable, to_csv
from protokern.models.base import PrototypeModel
from protokern.storage.files import read_table, write_synced
from protokern.storage.outputs import Outputs

TABLE, NUMBERS = "measures.json", "measures.csv"
PROTOTYPES, CLASSES = "measures-prototypes.csv", "measures-classes.csv"
_REMEDY = "Run 'protokern metrics RUN' to write it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMeasures:
    """The measures of a run that `protokern metrics` wrote.

    Attributes:
        weights: a fingerprint of the model that was measured; None: an older version wrote the file.
        split: whose images were used, "test" or "train".
        results: of all measures that were asked for.
        random: of the same net with random prototypes, see `measure_random`.
    """

    weights: str | None
    split: str
    results: tuple[MeasureResult, ...]
    random: tuple[MeasureResult, ...]

    def is_of(self, model: PrototypeModel) -> bool:
        """Whether the weights that were measured are those of the model."""
        return self.weights == fingerprint_of_weights(model)


def file_names() -> tuple[str, ...]:
    """The names of all files that a call may write."""
    details = (f"{name}.csv" for name, measure in MEASURES.items() if measure.details is not None)
    return (TABLE, NUMBERS, PROTOTYPES, CLASSES, *details)


def facts_of(model: PrototypeModel, random: Sequence[MeasureResult]) -> dict[str, Any]:
    """What the files say of the model: a fingerprint of its weights, and its measures with random prototypes."""
    table = MetricTable(tuple(random))
    return {
        "weights": fingerprint_of_weights(model),
        "random_prototypes": table.to_dict()["measures"],
        "random_passes": passes_of_random(random),
    }


def passes_of_random(random: Sequence[MeasureResult]) -> dict[str, int]:
    """How many images went through the net for the measures of random prototypes, as `MetricTable.passes`.

    The images that the patches were drawn from are among the unchanged ones.
    """
    drawn = max((int(one.settings.get(DRAWN_FROM, 0)) for one in random), default=0)
    passes = MetricTable(tuple(random)).passes
    return passes | {"unchanged": passes["unchanged"] + drawn}


def write_measures(outputs: Outputs, facts: Mapping[str, Any], results: Sequence[MeasureResult]) -> list[Path]:
    """Write the files; return their paths.

    Args:
        outputs: the folder, claimed for `file_names()`.
        facts: of the run and its images, with those of `facts_of`.
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


def read_measures(folder: Path) -> StoredMeasures | None:
    """Read `measures.json` of a folder; None if there is none.

    Raises:
        CheckpointError: the file is broken or of another format.
    """
    path = folder / TABLE
    if not path.exists():
        return None
    table = read_table(path, FORMAT, remedy=_REMEDY)
    try:
        return StoredMeasures(
            weights=table.get("weights"),
            split=table["split"],
            results=_results(table["measures"]),
            random=_results(table.get("random_prototypes", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: must describe every measure; it is broken ({type(error).__name__}: {error}). {_REMEDY}"
        ) from error


def _results(table: Mapping[str, Any]) -> tuple[MeasureResult, ...]:
    return tuple(_result(name, entry) for name, entry in table.items())


def _result(name: str, entry: Mapping[str, Any]) -> MeasureResult:
    if "left_out" in entry:
        return MeasureResult(name=name, left_out=str(entry["left_out"]))
    measure = MEASURES.get(name)
    rows = () if measure is None or measure.details is None else entry[measure.details.rows]
    return MeasureResult(
        name=name,
        estimates={
            number: Estimate(**(one | {"value": _number(one["value"])})) for number, one in entry["numbers"].items()
        },
        settings=dict(entry["settings"]),
        skipped=dict(entry["skipped"]),
        table=tuple(dict(row) for row in rows),
        prototypes={column: [_number(one) for one in values] for column, values in entry["by_prototype"].items()},
        classes={column: [_number(one) for one in values] for column, values in entry["by_class"].items()},
        passes=int(entry["passes"]),
        unchanged=int(entry.get("unchanged", 0)),
        shared=int(entry.get("shared", 0)),
    )


def _number(value: Any) -> Any:
    """NaN for None, which stands for it in JSON."""
    return math.nan if value is None else value
