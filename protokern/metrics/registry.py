"""The measures by name. A new measure is a file, and a row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protokern.metrics import (
    accuracy,
    concentration,
    consistency,
    continuity,
    deletion,
    duplicates,
    left_alone,
    misalignment,
    object_maps,
    on_object,
    perturbation,
    purity,
    randomisation,
    size,
)
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
        question: what it answers, in one sentence.
        needs_regions: whether it uses the places of the objects in the images, `Context.regions`.
        needs_parts: whether it uses the parts in the images, `Context.parts`.
        details: what `MeasureResult.table` holds; None: no rows.
        by_default: whether it is measured if no names are given; False for one that takes much longer than the others.
    """

    start: Callable[[PrototypeModel, Context, int], Measuring]
    question: str = ""
    needs_regions: bool = False
    needs_parts: bool = False
    details: Details | None = None
    by_default: bool = True


MEASURES: dict[str, Measure] = {
    on_object.NAME: Measure(
        start=lambda model, context, _: on_object.OnObject(model, context),
        question="Do the prototypes match on the object, or on its surroundings?",
        needs_regions=True,
    ),
    concentration.NAME: Measure(
        start=lambda model, context, _: concentration.ConcentrationOfAnswers(model, context),
        question="Do the few prototypes that are shown carry the answer, by reasons for it?",
    ),
    left_alone.NAME: Measure(
        start=left_alone.LeftAlone,
        question="Is a match about the part that is framed, or about what the net sees around it?",
    ),
    duplicates.NAME: Measure(
        start=lambda model, context, _: duplicates.Duplicates(model, context),
        question="Do prototypes repeat each other?",
        details=Details("pairs", duplicates.Pair._fields),
    ),
    size.NAME: Measure(
        start=lambda model, context, _: size.Size(model, context),
        question="How much is there to read, in an explanation and in the model?",
    ),
    accuracy.NAME: Measure(
        start=lambda model, context, _: accuracy.Accuracy(model, context),
        question="Are the answers right, and does the model know how often?",
    ),
    consistency.CONSISTENCY: Measure(
        start=lambda model, context, _: consistency.Consistency(model, context),
        question="Does a prototype match at the same part in all images of its class?",
        needs_parts=True,
    ),
    consistency.STABILITY: Measure(
        start=consistency.Stability,
        question="Does a prototype match at the same place under noise that nobody sees?",
        needs_parts=True,
    ),
    purity.NAME: Measure(
        start=lambda model, context, _: purity.Purity(model, context),
        question="Do the images that a prototype finds most similar show the same part there?",
        needs_parts=True,
    ),
    object_maps.NAME: Measure(
        start=lambda model, context, _: object_maps.ObjectMaps(model, context),
        question="Is the heat map of a prototype on the object?",
        needs_regions=True,
    ),
    deletion.NAME: Measure(
        start=deletion.Deletion,
        question="Is the shown evidence needed for the answer, and is it enough?",
    ),
    perturbation.NAME: Measure(
        start=perturbation.Perturbation,
        question="Does a match lose more by a change of its place than by one of everything else?",
    ),
    continuity.COMPLETENESS: Measure(
        start=continuity.start_completeness,
        question="How much does an explanation change by noise outside of the object?",
        needs_regions=True,
    ),
    continuity.CONTINUITY: Measure(
        start=continuity.start_continuity,
        question="How much does an explanation change by a slight change of the image?",
    ),
    randomisation.NAME: Measure(
        start=randomisation.Randomisation,
        question="Does the map of a prototype change when the weights of the net are shuffled?",
    ),
    misalignment.NAME: Measure(
        start=misalignment.Misalignment,
        question="Can pixels outside of its box move a match, by a change that nobody sees?",
        by_default=False,
    ),
}


def check_names(names: tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    """The chosen measures, in the order of the registry; None means those of the default.

    Raises:
        ValueError: a measure is unknown.
    """
    if names is None:
        return tuple(name for name, measure in MEASURES.items() if measure.by_default)
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"only: must be some of {', '.join(MEASURES)}; got {got}. Check the spelling.")
    return tuple(name for name in MEASURES if name in names)
