"""What the metrics mean for pairs of patch vectors: the difference form, weights, gradients, non-finite vectors.

One row each, the definition; the tables and branches of the compiled kernels follow it.

`sqeuclidean` is sum (x - p)^2. `cosine` is 1 - cos(x, p), computed as half the squared distance of the unit vectors, so
that it is exactly 0 where the vectors are equal; a zero vector is at distance 1 from everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .similarity import ACTIVATIONS, ActivationName

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


class Metric(NamedTuple):
    """What a metric is to all that need not know which one it is.

    Attributes:
        is_unit: vectors are divided by their lengths, and a zero vector has a rule of its own.
        is_centred: gradients may be taken around the mean prototype, since they are those of differences.
        activations: names of the similarities that make sense of its values.
        start: how the first prototypes are drawn.
        weight_needs_distance: the derivative of a weighted distance with respect to the weight depends on the distance.
        prepare: vectors (..., K), NaN where they are not finite, and which are finite, as `Vectors`.
        value: see `distance`.
        gradient: see `distance_gradient`.
        weigh: see `weigh`; for weights above 0.
        weigh_slopes: see `weigh_gradient`; for weights above 0.
    """

    is_unit: bool
    is_centred: bool
    activations: tuple[ActivationName, ...]
    start: Callable[..., Tensor]
    weight_needs_distance: bool
    prepare: Callable[[Tensor, Tensor], Vectors]
    value: Callable[[Vectors, Vectors], Tensor]
    gradient: Callable[[Tensor, Vectors, Vectors], tuple[Tensor, Tensor]]
    weigh: Callable[[Tensor, Tensor], Tensor]
    weigh_slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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


METRIC_TABLE: dict[str, Metric] = {
    "sqeuclidean": Metric(
        is_unit=False,
        is_centred=True,
        # 1 - d is for distances of at most 2.
        activations=tuple(name for name in ACTIVATIONS if name != "cosine"),
        start=torch.rand,
        weight_needs_distance=False,
        prepare=_as_they_are,
        value=_square,
        gradient=_square_gradient,
        # So that exp(-d) becomes w exp(-d).
        weigh=lambda distance, weight: distance - weight.log(),
        weigh_slopes=lambda distance, weight: (torch.ones_like(distance * weight), -1 / weight + 0 * distance),
    ),
    "cosine": Metric(
        is_unit=True,
        is_centred=False,
        activations=ACTIVATIONS,
        start=torch.randn,
        weight_needs_distance=True,
        prepare=_unit_vectors,
        value=_cosine,
        gradient=_cosine_gradient,
        # So that the similarity 1 - d becomes w (1 - d).
        weigh=lambda distance, weight: (1 - weight) + weight * distance,
        weigh_slopes=lambda distance, weight: (weight + 0 * distance, distance - 1),
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

    Both are exactly zero where the vectors are equal. A pair with a non-finite vector gives NaN.
    """
    return METRIC_TABLE[metric].gradient(grad, x, p)


def zero_pairs(x: Vectors, p: Vectors, metric: str) -> Tensor | None:
    """Which pairs of x (b, N, K) and p (P, K) have a zero vector, (b, P, N); None where that is nothing special."""
    return x.is_zero[:, None, :] | p.is_zero[:, None] if METRIC_TABLE[metric].is_unit else None


def weigh(distance: Tensor, weight: Tensor, metric: str) -> Tensor:
    """Distances to patches of weight w, which broadcast against each other.

    Under cosine (1 - w) + w d, under sqeuclidean d - log(w). A weight of 1 changes no bit, one of 0 gives inf, and one
    that is NaN or outside of [0, 1] gives NaN. A distance that is NaN stays so.
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
