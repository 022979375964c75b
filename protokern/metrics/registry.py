"""The measures by name. A new measure is a file, and a row here."""

from __future__ import annotations

from collections.abc import Callable

from protokern.metrics import concentration, duplicates, left_alone, on_object
from protokern.metrics.context import Context, Measuring
from protokern.models.base import PrototypeModel

# From a model, the context and the number of images to a new measure.
Start = Callable[[PrototypeModel, Context, int], Measuring]

MEASURES: dict[str, Start] = {
    on_object.NAME: lambda model, context, _: on_object.OnObject(model, context),
    concentration.NAME: lambda model, context, _: concentration.ConcentrationOfAnswers(model, context),
    left_alone.NAME: left_alone.LeftAlone,
    duplicates.NAME: lambda model, context, _: duplicates.Duplicates(model, context),
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
