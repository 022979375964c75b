"""The measures by name. A new measure is a file, and a row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protokern.metrics import concentration, duplicates, left_alone, on_object
from protokern.metrics.context import Context, Measuring
from protokern.models.base import PrototypeModel


@dataclass(frozen=True, slots=True)
class Details:
    """The rows of details that a measure gives besides its numbers; they are written as MEASURE.csv.

    Attributes:
        rows: what they are called in `measures.json`.
        columns: the keys of every row.
    """

    rows: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measure.

    Attributes:
        start: from a model, the context and the number of images to a running measure.
        needs_regions: whether it needs the places of the objects in the images, `Context.regions`.
        details: what `MeasureResult.table` holds; None: no rows.
    """

    start: Callable[[PrototypeModel, Context, int], Measuring]
    needs_regions: bool = False
    details: Details | None = None


MEASURES: dict[str, Measure] = {
    on_object.NAME: Measure(
        start=lambda model, context, _: on_object.OnObject(model, context),
        needs_regions=True,
    ),
    concentration.NAME: Measure(
        start=lambda model, context, _: concentration.ConcentrationOfAnswers(model, context),
    ),
    left_alone.NAME: Measure(start=left_alone.LeftAlone),
    duplicates.NAME: Measure(
        start=lambda model, context, _: duplicates.Duplicates(model, context),
        details=Details("pairs", duplicates.Pair._fields),
    ),
}


def check_names(names: tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    """The chosen measures, in the order of the registry; None means all.

    Raises:
        ValueError: a measure is unknown.
    """
    if names is None:
        return tuple(MEASURES)
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"only: must be some of {', '.join(MEASURES)}; got {got}. Check the spelling.")
    return tuple(name for name in MEASURES if name in names)
