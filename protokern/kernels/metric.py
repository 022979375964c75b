"""What the two metrics mean for pairs of patch vectors: the difference form, weights, gradients, non-finite vectors.

`sqeuclidean` is sum (x - p)^2. `cosine` is 1 - cos(x, p), computed as half the squared distance of the unit vectors, so
that it is exactly 0 where the vectors are equal; a zero vector is at distance 1 from everything.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

MetricName = Literal["sqeuclidean", "cosine"]
METRICS: tuple[MetricName, ...] = get_args(MetricName)


class Vectors(NamedTuple):
    """Vectors made ready for a metric; `...` are any leading dimensions.

    values: (..., K), the vectors, or the unit vectors for cosine; NaN in every component of a row that is not finite.
    norm: (...), Euclidean norm under cosine; ones for sqeuclidean, which does not need it.
    is_zero: (...), True for a zero vector under cosine.
    is_finite: (...), False where any component was inf or NaN.
    """

    values: Tensor
    norm: Tensor
    is_zero: Tensor
    is_finite: Tensor

    def select(self, index: tuple[slice | None, ...]) -> Vectors:
        """Views of the vectors at an index of the leading dimensions."""
        return Vectors(*(field[index] for field in self))

    def take(self, row: Tensor) -> Vectors:
        """Copies of the vectors at `row`, any shape of indices into the flattened leading dimensions."""
        index = row.flatten()
        values = self.values.flatten(0, -2).index_select(0, index).unflatten(0, row.shape)
        return Vectors(values, *(field.flatten().index_select(0, index).view(row.shape) for field in self[1:]))


def prepare(vectors: Tensor, metric: str) -> Vectors:
    """Make `vectors` (..., K) ready for `distance` and `distance_gradient`."""
    is_finite = vectors.isfinite().all(-1)
    values = torch.where(is_finite[..., None], vectors, torch.nan)
    if metric == "sqeuclidean":
        return Vectors(values, torch.ones_like(values[..., 0]), torch.zeros_like(is_finite), is_finite)
    # Scaling by the largest component keeps the squares of tiny and huge vectors in range.
    largest = values.abs().amax(-1)
    is_zero = largest == 0
    scaled = values / torch.where(is_zero, 1, largest)[..., None]
    length = scaled.square().sum(-1).sqrt()
    unit = scaled / torch.where(is_zero, 1, length)[..., None]
    return Vectors(unit, torch.where(is_zero, 1, largest * length), is_zero, is_finite)


def distance(x: Vectors, p: Vectors, metric: str) -> Tensor:
    """Distance of vectors that broadcast against each other, (..., K) -> (...). Non-finite vectors give NaN."""
    squared = (x.values - p.values).square().sum(-1)
    if metric == "sqeuclidean":
        return squared
    one = 1 + 0 * squared  # NaN stays NaN
    return torch.where(x.is_zero | p.is_zero, one, 0.5 * squared)


def distance_gradient(grad: Tensor, x: Vectors, p: Vectors, metric: str) -> tuple[Tensor, Tensor]:
    """Gradients of `distance` for `grad` (...), before any sum over broadcast dimensions: to x and to p, (..., K) each.

    Both are exactly zero where the vectors are equal. A pair with a non-finite vector gives NaN.
    """
    difference = x.values - p.values
    if metric == "sqeuclidean":
        grad_x = (2 * grad)[..., None] * difference
        return grad_x, -grad_x
    # d cos / dx = (p - (p.x) x) / |x| for unit x and p; p.x = 1 - d turns it into a difference that vanishes.
    cosine_distance = 0.5 * difference.square().sum(-1, keepdim=True)
    live = torch.where(x.is_zero | p.is_zero, 0, grad)[..., None]
    grad_x = live * (difference - cosine_distance * x.values) / x.norm[..., None]
    grad_p = -live * (difference + cosine_distance * p.values) / p.norm[..., None]
    return grad_x, grad_p


def weigh(distance: Tensor, weight: Tensor, metric: str) -> Tensor:
    """Distances to patches of weight w, which broadcast against each other.

    Under cosine (1 - w) + w d, so that the similarity 1 - d becomes w (1 - d). Under sqeuclidean d - log(w), so that
    exp(-d) becomes w exp(-d). A weight of 1 changes no bit, one of 0 gives inf, and one that is NaN or outside of
    [0, 1] gives NaN. A distance that is NaN stays so.
    """
    weighted = (1 - weight) + weight * distance if metric == "cosine" else distance - weight.log()
    weighted = torch.where(takes_part(weight) | distance.isnan(), weighted, torch.inf)
    return torch.where(is_weight(weight), weighted, torch.nan)


def weigh_gradient(distance: Tensor, weight: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Derivatives of `weigh` with respect to the distance and to the weight, of the shape of both together.

    Both are 0 at a weight of 0, where the patch takes no part, and NaN at one that is NaN or outside of [0, 1].
    """
    if metric == "cosine":
        to_distance, to_weight = weight + 0 * distance, distance - 1
    else:
        to_distance, to_weight = torch.ones_like(distance * weight), -1 / weight + 0 * distance
    counts, valid = takes_part(weight), is_weight(weight)
    to_distance, to_weight = (
        torch.where(valid, torch.where(counts, gradient, 0), torch.nan) for gradient in (to_distance, to_weight)
    )
    return to_distance, to_weight


def takes_part(weight: Tensor) -> Tensor:
    """Where a weight lets its patch be chosen: everywhere but at 0."""
    return weight != 0


def is_weight(weight: Tensor) -> Tensor:
    """Where a weight is one: in [0, 1], and no NaN."""
    return (weight >= 0) & (weight <= 1)
