"""The last layer as the convex problem it is, solved to a stated gap with weights that are really zero.

Few weights of other classes are not zero at the solution, so L-BFGS-B works on a set of weights that starts with the
own ones and takes in those that would leave zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protokern.train.last_layer_problem import LastLayerProblem, certify
from protokern.train.working_set import WorkingSet

MAX_ROUNDS = 40
FIRST_ITERATIONS = 30
# Below this gap the rounding of float32 would begin to matter.
DOUBLE_BELOW = 1e-2


@dataclass(frozen=True, slots=True)
class Solution:
    """Weights and how good they are.

    Attributes:
        weight: (K, E) float64.
        objective: F at them.
        gap: (F - a lower bound of all F) / F, >= 0; at most so much, relatively, is left to gain.
        evaluations: of the cross entropy and its gradient.
        entering: largest gradient of the cross entropy in a weight of another class: with an l1 above it all are zero.
    """

    weight: Tensor
    objective: float
    gap: float
    evaluations: int
    entering: float


def solve(problem: LastLayerProblem, l1: float, weight: Tensor, *, tolerance: float) -> Solution:
    """Minimise F, beginning at `weight` (K, E).

    Args:
        problem: see LastLayerProblem.
        l1: strength of the L1 term, > 0; inf leaves every weight of another class at zero.
        weight: where the search begins; `problem.start` stays the anchor of the ridge.
        tolerance: relative gap to reach. A problem that is too ill-conditioned ends with a larger one, which the
            solution states.

    Source: Chen et al. 2019 (ProtoPNet), section 2.2, "convex optimization of last layer"; Zhu et al. 1997, "Algorithm
        778: L-BFGS-B"; the dual bound as in Koh, Kim and Boyd 2007, "An interior-point method for large-scale
        l1-regularized logistic regression", section 3.
    """
    is_own = problem.is_own
    weight = torch.where(is_own, weight, 0.0) if np.isinf(l1) else weight.clone()
    members = is_own | (weight != 0)
    evaluations, stable, gap = 0, 0, np.inf
    dtype = torch.float32
    for round_number in range(MAX_ROUNDS):
        iterations = FIRST_ITERATIONS * 2 ** min(max(round_number - 1, 0) // 2 + stable, 5)
        working_set = WorkingSet(problem, members, dtype)
        weight, used = working_set.minimise(weight, l1, iterations, tolerance)
        evaluations += used
        is_stuck = used < iterations
        objective, gap, gradient = certify(problem, weight, l1)
        if gap <= tolerance:
            break
        excess = (gradient.abs() - l1).masked_fill(is_own | (weight != 0), -np.inf)  # (K, E)
        members = is_own | (weight != 0)
        num_new = min(int((excess > 0).sum()), int(members.sum()))
        if num_new:
            newest = excess.flatten().topk(num_new).indices
            members = members.flatten().index_fill(0, newest, True).view_as(is_own)
        if gap < DOUBLE_BELOW or is_stuck or not num_new:
            dtype = torch.float64
        stable = 0 if num_new else stable + 1
    entering = float(gradient.abs().masked_fill(is_own, 0.0).max())
    return Solution(weight, objective, gap, evaluations, entering)
