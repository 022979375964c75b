"""Numbers over images or prototypes, and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from protokern.results.measures import Column, Estimate, MeasureResult

__all__ = ["LEVEL", "RESAMPLES", "Column", "Estimate", "Means", "MeasureResult", "count", "estimate", "interval"]

LEVEL = 0.95
RESAMPLES = 2000
_DRAWS = 1 << 22  # numbers that are drawn at once


def estimate(
    values: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    unit: Literal["share", "number"] = "share",
    statistic: Literal["mean", "median"] = "mean",
    over: Literal["images", "prototypes"] = "images",
) -> Estimate:
    """The mean or the median of a number for each image or prototype, with its 95 % bootstrap interval over them.

    The percentile interval of 2,000 resamples; the same values and seed give the same bits. It says how the number
    might differ for other images, or prototypes, of the same kind. It does not cover other seeds of training.

    Args:
        values: (N,), NaN where an image or prototype has no such number; those are left out.
        seed: of the resamples, 0 or more.
        unit: of the values.
        statistic: of the values.
        over: what there is a value for.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    of = np.mean if statistic == "mean" else np.median
    count = len(known)
    value = float(of(known)) if count else float("nan")
    low, high = interval(count, lambda drawn: of(known[drawn], axis=1), seed=seed)
    images, prototypes = (count, 0) if over == "images" else (0, count)
    return Estimate(value=value, low=low, high=high, images=images, unit=unit, prototypes=prototypes)


def interval(
    count: int, statistic: Callable[[np.ndarray], np.ndarray], *, seed: int = 0
) -> tuple[float, float] | tuple[None, None]:
    """The 95 % percentile interval of 2,000 bootstrap resamples; (None, None) for fewer than two values.

    Args:
        count: N, how many values there are.
        statistic: from indices (R, N) of R resamples to their numbers (R,).
        seed: of the resamples.
    """
    if count < 2:
        return None, None
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS // count)
    resampled = np.concatenate(
        [
            statistic(rng.integers(count, size=(min(step, RESAMPLES - start), count)))
            for start in range(0, RESAMPLES, step)
        ]
    )
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def count(number: float, unit: Literal["share", "number"] = "number") -> Estimate:
    """A number that is not an average over images."""
    return Estimate(value=float(number), low=None, high=None, images=0, unit=unit)


class Means:
    """A mean for each of several things, such as the prototypes; NaN for those without a value.

    Args:
        number: how many things there are.
    """

    def __init__(self, number: int) -> None:
        self._sums = np.zeros(number)
        self._counts = np.zeros(number, dtype=np.int64)

    def add(self, index: int | np.ndarray, value: float | np.ndarray) -> None:
        """Count values for things; each is named once at most, and a NaN counts for nothing."""
        known = ~np.isnan(value)
        self._sums[index] += np.where(known, value, 0.0)
        self._counts[index] += known

    def values(self) -> list[float]:
        """The means."""
        with np.errstate(invalid="ignore"):
            means: list[float] = (self._sums / self._counts).tolist()
        return means
