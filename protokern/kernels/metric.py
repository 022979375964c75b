"""What the metrics mean for pairs of patch vectors: the difference form, weights, gradients, non-finite vectors.

Each has a row, which is its definition. metric_in_triton.py has the branches of Triton's kernels, csrc/core/metric.h
the C++, protokern/choices.py the names. A name that one of them lacks is an error there, never another metric.

`sqeuclidean` is sum (x - p)^2. `cosine` is 1 - cos(x, p), computed as half the squared distance of the unit vectors, so
that it is exactly 0 where the vectors are equal; a zero vector is at distance 1 from everything. `dot` is -sum x p, the
negative projection, which may have either sign; what is called difference form elsewhere is this sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..choices import ACTIVATIONS, METRICS, ActivationName
from ..choices import MetricName as MetricName
from .vectors import Vectors


class Metric(NamedTuple):
    """The properties of a metric, so that other code need not ask for its name.

    Attributes:
        is_unit: vectors are divided by their lengths, and there is a rule for zero vectors.
        is_centred: gradients may be taken around the mean prototype, since they are those of differences.
        is_product: the distance is the negative product of the vectors and no function of their difference: products
            are those of the vectors as they are, a copy is not at distance 0, and a distance may be negative.
        activations: names of the similarities that fit its values.
        share: the distance as a share of the squared difference of two prepared vectors.
        largest: upper bound of the distances between vectors of this many components in [0, 1], or between any vectors
            for None.
        start: how the first prototypes are drawn.
        weight_needs_distance: the derivative of a weighted distance with respect to the weight depends on the distance.
        prepare: vectors (..., K), NaN where they are not finite, and which are finite, as `Vectors`.
        value: see `distance`.
        gradient: see `distance_gradient`.
        gather: the gradient (..., K) to vectors out of sums over their partners: of the weights (...), and of the
            weighted partners (..., K), centred if `is_centred`; given the vectors and what is centred of them.
        weigh: see `weigh`; for weights above 0.
        weigh_slopes: see `weigh_gradient`; for weights above 0.
        factor: what Triton's kernels take of a weight in [0, 1].
    """

    is_unit: bool
    is_centred: bool
    is_product: bool
    activations: tuple[ActivationName, ...]
    share: float
    largest: Callable[[int | None], float | None]
    start: Callable[..., Tensor]
    weight_needs_distance: bool
    prepare: Callable[[Tensor, Tensor], Vectors]
    value: Callable[[Vectors, Vectors], Tensor]
    gradient: Callable[[Tensor, Vectors, Vectors], tuple[Tensor, Tensor]]
    gather: Callable[[Tensor, Tensor, Vectors, Tensor], Tensor]
    weigh: Callable[[Tensor, Tensor], Tensor]
    weigh_slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    factor: Callable[[Tensor], Tensor]


def _as_they_are(values: Tensor, is_finite: Tensor) -> Vectors:
    return Vectors(values, torch.ones_like(values[..., 0]), torch.zeros_like(is_finite), is_finite)


def _unit_vectors(values: Tensor, is_finite: Tensor) -> Vectors:
    # Scaling by the largest component keeps the squares of tiny and huge vectors in range.
    largest = values.abs().amax(-1)
    is_zero = largest == 0
    scaled = values / torch.where(is_zero, 1, largest)[..., None]
    length = scaled.square().sum(-1).sqrt()
    unit = scaled / torch.where(is_zero, 1, length)[..., None]
    return Vectors(unit, torch.where(is_zero, 1, largest * length), is_zero, is_finite)


def _square(x: Vectors, p: Vectors) -> Tensor:
    return (x.values - p.values).square().sum(-1)


def _square_gradient(grad: Tensor, x: Vectors, p: Vectors) -> tuple[Tensor, Tensor]:
    grad_x = (2 * grad)[..., None] * (x.values - p.values)
    return grad_x, -grad_x


def _gather_differences(total: Tensor, partners: Tensor, own: Vectors, own_centred: Tensor) -> Tensor:
    return (2 * (own_centred * total[..., None] - partners)).to(own.values.dtype)


def _cosine(x: Vectors, p: Vectors) -> Tensor:
    squared = _square(x, p)
    one = 1 + 0 * squared  # NaN stays NaN
    return torch.where(x.is_zero | p.is_zero, one, 0.5 * squared)


def _cosine_gradient(grad: Tensor, x: Vectors, p: Vectors) -> tuple[Tensor, Tensor]:
    # d cos / dx = (p - (p.x) x) / |x| for unit x and p; p.x = 1 - d turns it into a difference that vanishes.
    difference = x.values - p.values
    cosine_distance = 0.5 * difference.square().sum(-1, keepdim=True)
    live = torch.where(x.is_zero | p.is_zero, 0, grad)[..., None]
    grad_x = live * (difference - cosine_distance * x.values) / x.norm[..., None]
    grad_p = -live * (difference + cosine_distance * p.values) / p.norm[..., None]
    return grad_x, grad_p


def _gather_tangents(total: Tensor, partners: Tensor, own: Vectors, own_centred: Tensor) -> Tensor:
    # The gradient of the unit vectors turned into that of the vectors: its part along the vector has no effect.
    grad_unit = -partners.to(own.values.dtype)
    along = (grad_unit * own.values).sum(-1, keepdim=True)
    return (grad_unit - along * own.values) / own.norm[..., None]


def _negative_product(x: Vectors, p: Vectors) -> Tensor:
    return -(x.values * p.values).sum(-1)


def _product_gradient(grad: Tensor, x: Vectors, p: Vectors) -> tuple[Tensor, Tensor]:
    # 0 times the vector itself: NaN stays NaN.
    return -grad[..., None] * (p.values + 0 * x.values), -grad[..., None] * (x.values + 0 * p.values)


def _gather_partners(total: Tensor, partners: Tensor, own: Vectors, own_centred: Tensor) -> Tensor:
    return (0 * own_centred - partners).to(own.values.dtype)


METRIC_TABLE: dict[str, Metric] = {
    "sqeuclidean": Metric(
        is_unit=False,
        is_centred=True,
        is_product=False,
        # 1 - d is for distances of at most 2.
        activations=tuple(name for name in ACTIVATIONS if name != "cosine"),
        share=1.0,
        largest=lambda components: None if components is None else float(components),
        start=torch.rand,
        weight_needs_distance=False,
        prepare=_as_they_are,
        value=_square,
        gradient=_square_gradient,
        gather=_gather_differences,
        # So that exp(-d) becomes w exp(-d).
        weigh=lambda distance, weight: distance - weight.log(),
        weigh_slopes=lambda distance, weight: (torch.ones_like(distance * weight), -1 / weight + 0 * distance),
        factor=torch.log,
    ),
    "cosine": Metric(
        is_unit=True,
        is_centred=False,
        is_product=False,
        activations=ACTIVATIONS,
        share=0.5,
        largest=lambda components: 2.0,
        start=torch.randn,
        weight_needs_distance=True,
        prepare=_unit_vectors,
        value=_cosine,
        gradient=_cosine_gradient,
        gather=_gather_tangents,
        # So that the similarity 1 - d becomes w (1 - d).
        weigh=lambda distance, weight: (1 - weight) + weight * distance,
        weigh_slopes=lambda distance, weight: (weight + 0 * distance, distance - 1),
        factor=torch.positive,
    ),
    "dot": Metric(
        is_unit=False,
        is_centred=False,
        is_product=True,
        activations=("linear",),
        share=1.0,
        largest=lambda components: None,
        start=torch.rand,
        weight_needs_distance=True,
        prepare=_as_they_are,
        value=_negative_product,
        gradient=_product_gradient,
        gather=_gather_partners,
        # So that the similarity -d becomes -w d: that of the patch times w.
        weigh=lambda distance, weight: weight * distance,
        weigh_slopes=lambda distance, weight: (weight + 0 * distance, distance + 0 * weight),
        factor=torch.positive,
    ),
}
assert tuple(METRIC_TABLE) == METRICS


def prepare(vectors: Tensor, metric: str) -> Vectors:
    """Make `vectors` (..., K) ready for `distance` and `distance_gradient`."""
    is_finite = vectors.isfinite().all(-1)
    return METRIC_TABLE[metric].prepare(torch.where(is_finite[..., None], vectors, torch.nan), is_finite)


def distance(x: Vectors, p: Vectors, metric: str) -> Tensor:
    """Distance of vectors that broadcast against each other, (..., K) -> (...). Non-finite vectors give NaN."""
    return METRIC_TABLE[metric].value(x, p)


def distance_gradient(grad: Tensor, x: Vectors, p: Vectors, metric: str) -> tuple[Tensor, Tensor]:
    """Gradients of `distance` for `grad` (...), before any sum over broadcast dimensions: to x and to p, (..., K) each.

    Both are exactly zero where the vectors are equal, unless `is_product`. A pair with a non-finite vector gives NaN.
    """
    return METRIC_TABLE[metric].gradient(grad, x, p)


def distance_of(squared: Tensor, has_zero: Tensor | None, metric: str) -> Tensor:
    """Distances of squared differences of prepared vectors, however those were computed; may overwrite them."""
    share = METRIC_TABLE[metric].share
    result = squared if share == 1 else squared.mul_(share)
    return result if has_zero is None else result.masked_fill_(has_zero, 1)


def zero_pairs(x: Vectors, p: Vectors, metric: str) -> Tensor | None:
    """Which pairs of x (b, N, K) and p (P, K) have a zero vector, (b, P, N); None where that is nothing special."""
    return x.is_zero[:, None, :] | p.is_zero[:, None] if METRIC_TABLE[metric].is_unit else None


def weigh(distance: Tensor, weight: Tensor, metric: str) -> Tensor:
    """Distances to patches of weight w, which broadcast against each other.

    Under cosine (1 - w) + w d, under sqeuclidean d - log(w), under dot w d. A weight of 1 changes no bit, one of 0
    gives inf, and one that is NaN or outside of [0, 1] gives NaN. A distance that is NaN stays so.
    """
    weighted = METRIC_TABLE[metric].weigh(distance, weight)
    weighted = torch.where(takes_part(weight) | distance.isnan(), weighted, torch.inf)
    return torch.where(is_weight(weight), weighted, torch.nan)


def weigh_gradient(distance: Tensor, weight: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Derivatives of `weigh` with respect to the distance and to the weight, of the shape of both together.

    Both are 0 at a weight of 0, where the patch takes no part, and NaN at one that is NaN or outside of [0, 1].
    """
    counts, valid = takes_part(weight), is_weight(weight)
    to_distance, to_weight = (
        torch.where(valid, torch.where(counts, gradient, 0), torch.nan)
        for gradient in METRIC_TABLE[metric].weigh_slopes(distance, weight)
    )
    return to_distance, to_weight


def takes_part(weight: Tensor) -> Tensor:
    """Where a weight lets its patch be chosen: everywhere but at 0."""
    return weight != 0


def is_weight(weight: Tensor) -> Tensor:
    """Where a weight is one: in [0, 1], and no NaN."""
    return (weight >= 0) & (weight <= 1)
