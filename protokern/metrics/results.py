"""The results of measures: plain numbers with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
_DRAWS = 1 << 22  # numbers that are drawn at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number over images.

    Attributes:
        value: the mean, or the median, over the images; NaN if there are none.
        low, high: ends of the 95 % bootstrap interval over images; None for fewer than two images, and for numbers that
            are not averages over images.
        images: how many images the number covers; 0 if it is not an average over images.
        unit: "share", mostly in [0, 1], or "number".
    """

    value: float
    low: float | None
    high: float | None
    images: int
    unit: Literal["share", "number"] = "share"


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
    """

    name: str
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    settings: Mapping[str, str | int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    table: tuple[Mapping[str, object], ...] = ()
    left_out: str | None = None


def estimate(
    values: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    unit: Literal["share", "number"] = "share",
    statistic: Literal["mean", "median"] = "mean",
) -> Estimate:
    """The mean or the median of a number for each image, with its 95 % bootstrap interval over images.

    The percentile interval of 2,000 resamples; the same values and seed give the same bits. It says how the number
    might differ for other images of the same kind. It does not cover other seeds of training.

    Args:
        values: (N,), NaN where an image has no such number; those are left out.
        seed: of the resamples, 0 or more.
        unit: of the values.
        statistic: of the values.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    over = np.mean if statistic == "mean" else np.median
    count = len(known)
    if count == 0:
        return Estimate(value=float("nan"), low=None, high=None, images=0, unit=unit)
    value = float(over(known))
    if count == 1:
        return Estimate(value=value, low=None, high=None, images=1, unit=unit)
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS // count)
    resampled = np.concatenate(
        [
            over(known[rng.integers(count, size=(min(step, RESAMPLES - start), count))], axis=1)
            for start in range(0, RESAMPLES, step)
        ]
    )
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Estimate(value=value, low=low, high=high, images=count, unit=unit)


def count(number: float) -> Estimate:
    """A count, which is not an average over images."""
    return Estimate(value=float(number), low=None, high=None, images=0, unit="number")
