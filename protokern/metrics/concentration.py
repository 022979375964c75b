"""Concentration: do the few prototypes that are shown carry the answer, and by reasons for it?"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np

from protokern.metrics.context import Context, Seen, weight_of_points
from protokern.metrics.results import MeasureResult, estimate
from protokern.models.base import PrototypeModel

NAME = "concentration"
SHOWN = (1, 2, 3, 4, 5)
_ROUNDING = 1e-12  # of a sum in float64, as a share of it: n equal contributions are n/m of m


class Concentration(NamedTuple):
    """The concentration of one image; NaN if there are no contributions.

    Attributes:
        shown: share of the contributions to the margin that the k largest have, in [0, 1].
        needed: how many of the largest are needed to reach the share.
        positive: share of all points of the answer, by absolute value, that speaks for it, in [0, 1].
    """

    shown: float
    needed: float
    positive: float


def concentration_of(
    activations: np.ndarray, weight: np.ndarray, first: int, second: int, *, shown: int = 4, needed: float = 0.8
) -> Concentration:
    """How an image's answer is distributed over the prototypes.

    The contribution of a prototype to the margin between two classes is |activation x difference of its weights|: how
    far it moves one logit against the other. Its points for a class are activation x weight.

    Args:
        activations: (P,) of the image.
        weight: (K, P), of the model.
        first: the class of the answer.
        second: the class with the second largest logit.
        shown: k, at least 1.
        needed: the share to reach, in (0, 1].
    """
    contributions = np.sort(np.abs(activations * (weight[first] - weight[second])))[::-1]
    total = contributions.sum()
    points = activations * weight[first]
    loud = np.abs(points).sum()
    nan = float("nan")
    reached = np.cumsum(contributions) >= needed * total * (1 - _ROUNDING)
    return Concentration(
        shown=float(contributions[:shown].sum() / total) if total > 0 else nan,
        needed=float(np.argmax(reached) + 1) if total > 0 else nan,
        positive=float(points[points > 0].sum() / loud) if loud > 0 else nan,
    )


def shares_of_largest(activations: np.ndarray, weight: np.ndarray, first: int, second: int) -> np.ndarray:
    """The share of an image's contributions that the 1, 2, 3, 4 and 5 largest have, (5,); NaN if there are none.

    Arguments as in `concentration_of`.
    """
    contributions = np.sort(np.abs(activations * (weight[first] - weight[second])))[::-1]
    total = contributions.sum()
    sums = np.array([contributions[:number].sum() for number in SHOWN])
    shares: np.ndarray = sums / total if total > 0 else np.full(len(SHOWN), np.nan)
    return shares


class ConcentrationOfAnswers:
    """The measure over a data set."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context) -> None:
        self._weight = weight_of_points(model).double().cpu().numpy()  # (K, P)
        self._context = context
        self._columns = (array("d"), array("d"), array("d"))
        self._largest = tuple(array("d") for _ in SHOWN)

    def see(self, seen: Seen) -> None:
        activations = seen.output.activations.double().cpu().numpy()
        logits = seen.output.logits.double().cpu().numpy()
        ranked = np.argsort(-logits, axis=1, kind="stable")[:, :2].tolist()
        for row, (first, second) in enumerate(ranked):
            one = concentration_of(
                activations[row],
                self._weight,
                first,
                second,
                shown=self._context.shown,
                needed=self._context.needed,
            )
            for column, value in zip(self._columns, one, strict=True):
                column.append(value)
            shares = shares_of_largest(activations[row], self._weight, first, second).tolist()
            for column, value in zip(self._largest, shares, strict=True):
                column.append(value)

    def result(self) -> MeasureResult:
        shown, needed, positive = self._columns
        seed, number = self._context.seed, self._context.shown
        largest = dict(zip(SHOWN, self._largest, strict=True)) | {number: shown}
        return MeasureResult(
            name=NAME,
            estimates={
                **{f"share of the largest {k}": estimate(largest[k], seed=seed) for k in sorted(largest)},
                f"prototypes for {self._context.needed:.0%}": estimate(needed, seed=seed, unit="number"),
                "positive share of the points": estimate(positive, seed=seed),
            },
            skipped={
                "images without contributions": int(np.isnan(shown).sum()),
                "images without points": int(np.isnan(positive).sum()),
            },
        )
