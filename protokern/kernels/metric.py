"""What the metrics mean for pairs of patch vectors: the difference form, weights, gradients, non-finite vectors.

Each has a row, which is its definition, and branches in the functions below it, in Triton's language for the kernels.
csrc/core/metric.h has the C++, protokern/choices.py the names. A name that one of them lacks is an error there, never
another metric.

`sqeuclidean` is sum (x - p)^2. `cosine` is 1 - cos(x, p), computed as half the squared distance of the unit vectors, so
that it is exactly 0 where the vectors are equal; a zero vector is at distance 1 from everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..choices import ACTIVATIONS, METRICS, ActivationName
from ..choices import MetricName as MetricName
from .triton_common.language import constant, jit, tl
from .vectors import Vectors


class Metric(NamedTuple):
    """The properties of a metric, so that other code need not ask for its name.

    Attributes:
        is_unit: vectors are divided by their lengths, and there is a rule for zero vectors.
        is_centred: gradients may be taken around the mean prototype, since they are those of differences.
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


METRIC_TABLE: dict[str, Metric] = {
    "sqeuclidean": Metric(
        is_unit=False,
        is_centred=True,
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


@constant
def triton_is_unit(metric: str) -> bool:
    """`is_unit`, without a look at the table, which Triton would compare at every launch."""
    return {"sqeuclidean": False, "cosine": True}[metric]


@jit
def triton_pair_term(x, p, terms, METRIC: tl.constexpr):
    """`terms` plus those of the components of two prepared vectors."""
    if METRIC == "sqeuclidean" or METRIC == "cosine":
        difference = x - p
        result = tl.fma(difference, difference, terms)
    else:
        tl.static_assert(False, "a metric without a term")
    return result


@jit
def triton_pair_value(total, has_zero, METRIC: tl.constexpr):
    """The distance out of the sum of all terms; `has_zero` flags pairs with a zero vector, for unit vectors alone."""
    if METRIC == "sqeuclidean":
        result = total
    elif METRIC == "cosine":
        result = tl.where(has_zero, 1.0, 0.5 * total)
    else:
        tl.static_assert(False, "a metric without a value")
    return result


@jit
def triton_score(products, square, factor, inside, RECHECK: tl.constexpr, METRIC: tl.constexpr):
    """Scores (BP, BN) of search_tile.py from products and squared lengths (BN,); inf where not `inside` (BN,).

    With RECHECK, what overflow or underflow made unusable is -inf. `factor` (BN,) is what weights leave, or None.
    """
    if METRIC == "cosine":
        # The largest component of an image is about 1, so no product overflows. Far below, squares have lost digits;
        # exactly 0 is a zero vector.
        scale = tl.where(square > 0, -1.0 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)
        if factor is not None:
            scale *= factor
        base = tl.where(inside, 0.0, float("inf"))
        if RECHECK:
            base = tl.where(inside & (square > 0) & (square < 1e-30), float("-inf"), base)
        scores = tl.fma(
            products, tl.broadcast_to(scale[None, :], products.shape), tl.broadcast_to(base[None, :], products.shape)
        )
    elif METRIC == "sqeuclidean":
        if factor is not None:
            square -= factor
        if RECHECK:
            scores = tl.fma(products, -2.0, tl.broadcast_to(square[None, :], products.shape))
            scores = tl.where(scores == scores, scores, float("-inf"))
            scores = tl.where(inside[None, :], scores, float("inf"))
        else:
            base = tl.where(inside & (square == square), square, float("inf"))
            scores = tl.fma(products, -2.0, tl.broadcast_to(base[None, :], products.shape))
            if factor is not None:
                # Nothing that overflows at a patch without weight reaches its neighbours.
                scores = tl.where(inside[None, :], scores, float("inf"))
    else:
        tl.static_assert(False, "a metric without a score")
    return scores


@jit
def triton_score_gap(length, distance, product_error, sum_error, METRIC: tl.constexpr):
    """How far scores have to be apart for their order to be that of the exact ones, by the errors of `is_apart`.

    `length` is that of the prototype, and `distance` the larger of the two.
    """
    if METRIC == "cosine":
        result = (product_error + 4 * sum_error) * length
    elif METRIC == "sqeuclidean":
        other = length + tl.sqrt(distance)  # no patch at that distance is longer
        result = 2 * (product_error * length * other + sum_error * (length + other) * (length + other))
    else:
        tl.static_assert(False, "a metric without a gap")
    return result


@jit
def triton_weight_of(factor, METRIC: tl.constexpr):
    """Whether the weight behind a factor is in [0, 1], and whether it is above 0."""
    if METRIC == "cosine":
        is_weight = (factor >= 0) & (factor <= 1)
        is_used = factor > 0
    elif METRIC == "sqeuclidean":
        is_weight = factor <= 0
        is_used = factor > float("-inf")
    else:
        tl.static_assert(False, "a metric without weights")
    return is_weight, is_used


@jit
def triton_weigh(distance, factors, mask, METRIC: tl.constexpr):
    """Weighted distances (rows,), with the factors at the pointers `factors` (rows,); inf at weight 0."""
    if METRIC == "cosine":
        weight = tl.load(factors, mask=mask, other=1.0)
        result = tl.where(weight > 0, (1 - weight) + weight * distance, float("inf"))
    elif METRIC == "sqeuclidean":
        result = distance - tl.load(factors, mask=mask, other=0.0)
    else:
        tl.static_assert(False, "a metric without weights")
    return result


@jit
def triton_pair_gradient(x, p, weight, distance, TO_PROTOTYPE: tl.constexpr, METRIC: tl.constexpr):
    """Gradient of a component, to x or to p, of prepared vectors: not divided by a length yet."""
    if METRIC == "cosine":
        result = -weight * ((x - p) + distance * p) if TO_PROTOTYPE else weight * ((x - p) - distance * x)
    elif METRIC == "sqeuclidean":
        result = -2 * weight * (x - p) if TO_PROTOTYPE else 2 * weight * (x - p)
    else:
        tl.static_assert(False, "a metric without a gradient")
    return result


@jit
def triton_expanded(products, a_square, b_square, CLOSE: tl.constexpr, VAGUE: tl.constexpr, METRIC: tl.constexpr):
    """Distances (R, C) from products and squared lengths (R,) and (C,), and which of them a difference has to replace.

    Those are nearer than the share CLOSE of both squared lengths, or have overflown, or have one below VAGUE.
    """
    square = a_square[:, None] + b_square[None, :]
    if METRIC == "cosine":
        has_zero = (a_square == 0)[:, None] | (b_square == 0)[None, :]
        length = tl.sqrt(a_square)[:, None] * tl.sqrt(b_square)[None, :]
        distance = tl.where(has_zero, 1.0, 1.0 - products / tl.where(has_zero, 1.0, length))
        vague = (a_square < VAGUE)[:, None] | (b_square < VAGUE)[None, :]
        close = (square == square) & (vague | (distance < CLOSE) | (distance != distance))
        close &= ~has_zero
        distance = tl.where(square == square, distance, square)
    elif METRIC == "sqeuclidean":
        distance = tl.fma(products, -2.0, square)
        # The constant stands on the right: the interpreter of Triton 3.7 and newer takes no constant times a tensor.
        close = (square == square) & ~(distance >= square * CLOSE)
    else:
        tl.static_assert(False, "a metric without an expanded form")
    return distance, close


@jit
def triton_close_share(a, b, distance, METRIC: tl.constexpr):
    """What a close pair of weight 1 adds for `triton_gathered`: prepared vectors (R, DB), distances (R,)."""
    if METRIC == "cosine":
        result = a - b - distance[:, None] * a
    elif METRIC == "sqeuclidean":
        result = a - b
    else:
        tl.static_assert(False, "a metric without a gradient")
    return result


@jit
def triton_own_share(weight, distance, METRIC: tl.constexpr):
    """What the pairs of a vector add to its own factor in `triton_gathered`, while the partners are summed apart."""
    if METRIC == "cosine":
        result = weight * (1.0 - distance)
    elif METRIC == "sqeuclidean":
        result = weight
    else:
        tl.static_assert(False, "a metric without a gradient")
    return result


@jit
def triton_gathered(total, METRIC: tl.constexpr):
    """The gradient out of the sum of all shares; of unit vectors, before the division by the length."""
    if METRIC == "cosine":
        result = total
    elif METRIC == "sqeuclidean":
        result = 2.0 * total
    else:
        tl.static_assert(False, "a metric without a gradient")
    return result
