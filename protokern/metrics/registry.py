"""The measures by name. Another family is a file of its own, and a row here."""

from __future__ import annotations

from collections.abc import Callable

from protokern.metrics import concentration, duplicates, left_alone, on_object
from protokern.metrics.context import Context, Measuring
from protokern.models.base import PrototypeModel

# From a model, the context and the number of images to a measure that has seen nothing yet.
Start = Callable[[PrototypeModel, Context, int], Measuring]

MEASURES: dict[str, Start] = {
    on_object.NAME: lambda model, context, _: on_object.OnObject(model, context),
    concentration.NAME: lambda model, context, _: concentration.ConcentrationOfAnswers(model, context),
    left_alone.NAME: left_alone.LeftAlone,
    duplicates.NAME: lambda model, context, _: duplicates.Duplicates(model, context),
}


def check_names(names: tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    """The measures that are meant, in the order of the registry; all for None.

    Raises:
        ValueError: there is no such measure.
    """
    if names is None:
        return tuple(MEASURES)
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"only: must be some of {', '.join(MEASURES)}; got {got}. Check the spelling.")
    return tuple(name for name in MEASURES if name in names)
