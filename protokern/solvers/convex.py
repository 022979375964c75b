"""The last layer as a convex problem, solved to a stated gap, with weights that are exactly zero.

Few weights to other classes are non-zero at the solution, so L-BFGS-B works on a set of weights that starts with the
own ones and grows by those that would leave zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protokern.solvers.problem import LastLayerProblem, certify, within_signs
from protokern.solvers.working_set import WorkingSet

MAX_ROUNDS = 40
FIRST_ITERATIONS = 30
# A share of F by which rounding may change it.
LAST_DIGITS = 1e-14
# Below this gap the rounding of float32 would begin to matter.
DOUBLE_BELOW = 1e-2


@dataclass(frozen=True, slots=True)
class Solution:
    """Weights and how good they are.

    Attributes:
        weight: (K, E) float64.
        objective: F at them.
        gap: (F - a lower bound of all F) / F, >= 0; the relative gain still possible is at most this.
        evaluations: of the cross entropy and its gradient.
        entering: largest gradient of the cross entropy in a weight of another class that may move against it: with an
            l1 above it all are zero.
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
        l1: strength of the L1 term, > 0; inf keeps every weight of another class at zero.
        weight: where the search begins; the ridge still refers to `problem.start`.
        tolerance: relative gap to reach. If the problem is too ill-conditioned the solution has, and states, a larger
            gap.

    Source: Chen et al. 2019 (ProtoPNet), section 2.2, "convex optimization of last layer"; Zhu et al. 1997, "Algorithm
        778: L-BFGS-B"; the dual bound as in Koh, Kim and Boyd 2007, "An interior-point method for large-scale
        l1-regularized logistic regression", section 3.
    """
    is_own = problem.is_own
    others = torch.zeros_like(weight) if np.isinf(l1) else weight.clamp(-problem.bound, problem.bound)
    weight = within_signs(torch.where(is_own, weight, others), problem.rises, problem.falls)
    evaluations, stable = 0, 0
    dtype = torch.float32
    objective, gap, gradient = certify(problem, weight, l1)
    for round_number in range(MAX_ROUNDS):
        if gap <= tolerance:
            break
        members, has_grown = _grown(is_own | (weight != 0), problem.pull(gradient), l1)
        stable = 0 if has_grown else stable + 1
        iterations = FIRST_ITERATIONS * 2 ** min(max(round_number - 1, 0) // 2 + stable, 5)
        chosen, before = WorkingSet(problem, members, dtype), objective
        weight, used = chosen.minimise(weight, l1, iterations, tolerance)
        evaluations += used
        objective, gap, gradient = certify(problem, weight, l1)
        if gap > tolerance and dtype is torch.float64 and not has_grown and objective >= before * (1 - LAST_DIGITS):
            stepped = chosen.newton_step(weight, l1)
            certified = certify(problem, stepped, l1)
            evaluations += 1
            if certified[1] >= gap:  # nothing more is to be had
                break
            weight, (objective, gap, gradient) = stepped, certified
        if gap < DOUBLE_BELOW or used < iterations or not has_grown:
            dtype = torch.float64
    return Solution(weight, objective, gap, evaluations, float(problem.pull(gradient).max()))


def _grown(members: Tensor, pull: Tensor, l1: float) -> tuple[Tensor, bool]:
    """The set (K, E) with the weights that would leave zero, at most doubled; and whether it grew."""
    candidates = pull.masked_fill(members | ~(pull > l1), -np.inf)
    num_new = min(int((candidates > -np.inf).sum()), int(members.sum()))
    newest = candidates.flatten().topk(num_new).indices
    return members.flatten().index_fill(0, newest, True).view_as(members), num_new > 0
