"""The last layer as a convex problem, and how far weights are from its minimum.

    F(W) = c CE(W) + l1 * sum |W_ke| over other classes + (ridge / 2K) * sum (W_ke - start_ke)^2 over own classes
    with |W_ke| <= bound over other classes and, where it is asked for, W_ke >= 0, W_ke <= 0 or both

CE is the mean cross entropy of the logits W x. The paper has the first two terms. Alone, they need not have a minimum:
if the classes can be separated, weights grow without limit. The third term holds own weights near their start, as the
few small steps of the released program do, and it turns the gradient into a bound on the possible gain. The bound
limits the other weights, which L1 alone lets grow to a hundred if a class has few images. An own weight below zero
would let a prototype speak against its own class. Zero is always allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from protokern.solvers.limits import SignLimit


@dataclass(frozen=True, slots=True)
class LastLayerProblem:
    """The data of F, on the CPU.

    Attributes:
        inputs: (E, N) float64, inputs of the last layer, one column per image.
        targets: (K, N) float64, the wanted class shares, each column summing to 1.
        is_own: (K, E) bool, weights from an input to its own class.
        start: (K, E) float64, the initial weights.
        cross_entropy: c, >= 0.
        ridge: > 0.
        bound: largest absolute weight from an input to another class, > 0; inf: none.
        own_is_non_negative: no own weight may be below zero.
        may_rise: (K, E) bool, weights that may be above zero, among them all own ones; None: all.
        may_fall: (K, E) bool, weights that may be below zero; None: all. Both as `allowed_signs` gives them.

    Raises:
        ValueError: an own weight may not be above zero.
    """

    inputs: Tensor
    targets: Tensor
    is_own: Tensor
    start: Tensor
    cross_entropy: float
    ridge: float
    bound: float = math.inf
    own_is_non_negative: bool = False
    may_rise: Tensor | None = None
    may_fall: Tensor | None = None

    def __post_init__(self) -> None:
        stuck = 0 if self.may_rise is None else int((self.is_own & ~self.may_rise).sum())
        if stuck:
            raise ValueError(
                f"may_rise: must be True at every own weight; got False at {stuck} of them. Limit `may_fall` there."
            )

    @property
    def own_ridge(self) -> float:
        """The factor of half the squared distance of every own weight, which concerns one class in K."""
        return self.ridge / len(self.is_own)

    @property
    def rises(self) -> Tensor:
        """(K, E) bool, weights that may be above zero."""
        return torch.ones_like(self.is_own) if self.may_rise is None else self.may_rise

    @property
    def falls(self) -> Tensor:
        """(K, E) bool, weights that may be below zero."""
        falls = torch.ones_like(self.is_own) if self.may_fall is None else self.may_fall
        return falls & ~self.is_own if self.own_is_non_negative else falls

    def pull(self, gradient: Tensor) -> Tensor:
        """How strongly each weight of another class at zero is drawn to a side where it may be, (K, E), >= 0.

        `gradient` (K, E) is that of c CE. An own weight, which has no L1 to hold it, counts as 0.
        """
        may_follow = torch.where(gradient > 0, self.falls, self.rises)
        return gradient.abs().masked_fill(self.is_own | ~may_follow, 0.0)


def allowed_signs(is_own: Tensor, limits: Mapping[int, SignLimit]) -> tuple[Tensor, Tensor]:
    """Which weights (K, E) may be above zero and which below it, under limits by class index."""
    rises, falls = torch.ones_like(is_own), torch.ones_like(is_own)
    for k, limit in limits.items():
        if limit.own == "for":
            falls[k] &= ~is_own[k]
        if limit.others != "any":
            rises[k] &= is_own[k]
        if limit.others == "none":
            falls[k] &= is_own[k]
    return rises, falls


def within_signs(weight: Tensor, rises: Tensor, falls: Tensor) -> Tensor:
    """The nearest weights (K, E) to these that are above or below zero only where they may."""
    return weight.masked_fill(((weight > 0) & ~rises) | ((weight < 0) & ~falls), 0.0)


def certify(problem: LastLayerProblem, weight: Tensor, l1: float) -> tuple[float, float, Tensor]:
    """F at `weight` (K, E), its relative gap, and the gradient (K, E) of c CE there; all in float64.

    For any class shares q of the images and any W, by Jensen's inequality, CE(W) >= mean entropy(q) + <G(q), W> with
    G(q) = (q - targets) x^T / N. The minimum over W of this plus the other two terms, within the bound, is at 0 for a
    weight to another class if l1 >= |G| or the weight may not follow -G, else at the bound; for an own weight it is at
    the vertex of a parabola, or at 0 if the vertex is negative and the weight may not be. q lies between the targets
    and the model's shares: once as far as l1 >= |G| for all weights that may follow, and, if weights are bounded, once
    at the model's shares.
    """
    is_own, num_images = problem.is_own, problem.inputs.shape[1]
    log_shares = (weight @ problem.inputs).log_softmax(dim=0)  # (K, N)
    difference = log_shares.exp() - problem.targets
    gradient = problem.cross_entropy * (difference @ problem.inputs.T) / num_images  # (K, E)
    own_distance = (weight - problem.start)[is_own]
    other_l1 = float(weight[~is_own].abs().sum())
    objective = (
        -problem.cross_entropy * float((problem.targets * log_shares).sum()) / num_images
        + (l1 * other_l1 if other_l1 else 0.0)
        + problem.own_ridge / 2 * float(own_distance @ own_distance)
    )
    pull = problem.pull(gradient)
    largest = float(pull.max())
    share = min(1.0, l1 / largest) if largest > 0 else 1.0
    bound = _lower_bound(problem, log_shares, gradient, pull, l1, share)
    if share < 1 and math.isfinite(problem.bound):
        bound = max(bound, _lower_bound(problem, log_shares, gradient, pull, l1, 1.0))
    gap = max(objective - bound, 0.0) / objective if objective > 0 else 0.0
    return objective, gap, gradient


def _lower_bound(
    problem: LastLayerProblem, log_shares: Tensor, gradient: Tensor, pull: Tensor, l1: float, share: float
) -> float:
    """A lower bound of F from q = targets + share * (the model's shares - targets).

    `gradient` and `pull` (K, E) are those of share 1.
    """
    is_own, num_images = problem.is_own, problem.inputs.shape[1]
    # Written so that rounding leaves it at 0 or above.
    mixed = (1 - share) * problem.targets + share * log_shares.exp()
    entropy = -problem.cross_entropy * float(torch.special.xlogy(mixed, mixed).sum()) / num_images
    own_gradient = share * gradient[is_own]
    bound = entropy + float(own_gradient @ problem.start[is_own])
    bound -= float(own_gradient @ own_gradient) / (2 * problem.own_ridge)
    is_held = ~problem.falls[is_own]
    if is_held.any():
        below = (own_gradient / problem.own_ridge - problem.start[is_own]).clamp(min=0)  # distance of the vertex
        below = below.masked_fill(~is_held, 0.0)
        bound += problem.own_ridge / 2 * float(below @ below)
    if share * float(pull.max()) > l1 and math.isfinite(problem.bound):
        bound -= problem.bound * float((share * pull[~is_own] - l1).clamp(min=0).sum())
    return bound
