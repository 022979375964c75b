"""Which of several solutions of the last layer is kept; the validation split decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from protokern.evaluate import Evaluation
from protokern.solvers.convex import Solution

# Number of standard errors of the best validation accuracy that a choice of fewer weights may cost.
STANDARD_ERRORS = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """Weights to choose from.

    Attributes:
        l1: the smallest strength that has them as its solution; 0: they are those from before the stage.
        strength: the strength that they were solved at; inf: no weight to another class was allowed.
        weight: (K, E), as the last layer holds them.
        solution: None for those from before.
        others: weights to other classes that are not zero.
        result: on the validation split.
    """

    l1: float
    strength: float
    weight: Tensor
    solution: Solution | None
    others: int
    result: Evaluation


def choose(candidates: Sequence[Candidate], others: Literal["path", "needed", "none"]) -> Candidate:
    """The one with the best accuracy, then the least cross entropy, then the first.

    With "needed" the one with the fewest weights to other classes wins, among those whose accuracy is at most
    STANDARD_ERRORS standard errors, sqrt(a (1 - a) / N), below the best accuracy a.
    """
    best = max(candidates, key=_goodness)
    if others != "needed":
        return best
    accuracy = best.result.accuracy
    spare = STANDARD_ERRORS * math.sqrt(accuracy * (1 - accuracy) / best.result.images)
    good = [candidate for candidate in candidates if candidate.result.accuracy >= accuracy - spare]
    fewest = min(candidate.others for candidate in good)
    return max((candidate for candidate in good if candidate.others == fewest), key=_goodness)


def _goodness(candidate: Candidate) -> tuple[float, float]:
    return candidate.result.accuracy, -candidate.result.loss
