"""How far explanations can be trusted, in numbers: what each measure found, and what the page of a run shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Column = Sequence[float] | Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number over images, or over prototypes.

    Attributes:
        value: the mean, or the median; NaN if there is nothing to average.
        low, high: ends of the 95 % bootstrap interval over images, or over prototypes; None for fewer than two of them,
            and for numbers that are no averages.
        images: how many images the number covers; 0 if it is not an average over images.
        unit: "share", mostly in [0, 1], or "number".
        prototypes: how many prototypes it covers; 0 if it is not an average over prototypes.
    """

    value: float
    low: float | None
    high: float | None
    images: int
    unit: Literal["share", "number"] = "share"
    prototypes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureResult:
    """What one measure found.

    Attributes:
        name: of the measure.
        estimates: its numbers by what they are.
        settings: how it was measured.
        skipped: how many images some of the numbers leave out, by reason.
        table: rows of details, all with the same keys; empty for most measures.
        left_out: why it was not measured, as the end of a sentence; None if it was.
        prototypes: columns of P values, one for each prototype, by what they are; NaN or "" where there is none.
        classes: columns of K values, one for each class.
        passes: how many images went through the net for this measure alone, beside the pass that all share.
        unchanged: how many of them were images of the data as they are, through the net as it is.
        shared: how many images it saw in the pass that all share.
    """

    name: str
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    settings: Mapping[str, str | int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    table: tuple[Mapping[str, object], ...] = ()
    left_out: str | None = None
    prototypes: Mapping[str, Column] = field(default_factory=dict)
    classes: Mapping[str, Column] = field(default_factory=dict)
    passes: int = 0
    unchanged: int = 0
    shared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The measures of a run, as its page shows them.

    Attributes:
        results: one for each measure, also for those that were left out.
        random: the same measures of the same net with random prototypes, for as many as have such a reference.
        split: whose images were used, "test" or "train", by the measures that are not `quick`.
        quick: the measures that were made for the page alone, over a few test images.
        num_images: how many test images there are; None: no data, so that only the model itself was measured.
        is_stale: stored measures are of other weights than those of the page, or do not say of which; not shown.
    """

    results: tuple[MeasureResult, ...]
    random: tuple[MeasureResult, ...] = ()
    split: str = "test"
    quick: tuple[str, ...] = ()
    num_images: int | None = None
    is_stale: bool = False
