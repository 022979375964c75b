"""The metrics of metric.py in Triton's language: the terms of a distance, scores of a search, weights, gradients.

Every function has a branch for each; mean_activation/metric_in_triton.py has what only the mean needs.
"""

from __future__ import annotations

from .triton_common.language import constant, jit, tl


@constant
def triton_is_unit(metric: str) -> bool:
    """`is_unit`, without a look at the table, which Triton would compare at every launch."""
    return {"sqeuclidean": False, "cosine": True, "dot": False}[metric]


@jit
def triton_pair_term(x, p, terms, METRIC: tl.constexpr):
    """`terms` plus those of the components of two prepared vectors."""
    if METRIC == "sqeuclidean" or METRIC == "cosine":
        difference = x - p
        result = tl.fma(difference, difference, terms)
    elif METRIC == "dot":
        result = tl.fma(x, p, terms)
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
    elif METRIC == "dot":
        result = -total
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
    elif METRIC == "dot":
        scores = -products
        if factor is not None:
            scores *= factor[None, :]
        if RECHECK:
            scores = tl.where(tl.abs(scores) < float("inf"), scores, float("-inf"))
        scores = tl.where(inside[None, :], scores, float("inf"))
    else:
        tl.static_assert(False, "a metric without a score")
    return scores


@jit
def triton_score_gap(length, distance, longest, product_error, sum_error, METRIC: tl.constexpr):
    """How far scores have to be apart for their order to be that of the exact ones, by the errors of `is_apart`.

    `length` is that of the prototype, `distance` the larger of the two, and `longest` points at the length of the
    longest patch of the image; it is None where the distance bounds that.
    """
    if METRIC == "cosine":
        result = (product_error + 4 * sum_error) * length
    elif METRIC == "sqeuclidean":
        other = length + tl.sqrt(distance)  # no patch at that distance is longer
        result = 2 * (product_error * length * other + sum_error * (length + other) * (length + other))
    elif METRIC == "dot":
        # Products that are too small for a normal number are lost: `sum_error` counts their terms.
        result = (product_error + 4 * sum_error) * (length * tl.load(longest) + 1e-30)
    else:
        tl.static_assert(False, "a metric without a gap")
    return result


@jit
def triton_weight_of(factor, METRIC: tl.constexpr):
    """Whether the weight behind a factor is in [0, 1], and whether it is above 0."""
    if METRIC == "cosine" or METRIC == "dot":
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
    elif METRIC == "dot":
        weight = tl.load(factors, mask=mask, other=1.0)
        result = tl.where(weight > 0, weight * distance, float("inf"))
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
    elif METRIC == "dot":
        # 0 times the vector itself: NaN stays NaN.
        result = -weight * (x + p * 0.0) if TO_PROTOTYPE else -weight * (p + x * 0.0)
    else:
        tl.static_assert(False, "a metric without a gradient")
    return result
