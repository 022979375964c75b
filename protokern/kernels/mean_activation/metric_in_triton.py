"""The expanded form of a distance and its gradient in Triton's language, for metrics whose mean is no closed form.

What other ops need of a metric is in kernels/metric_in_triton.py.
"""

from __future__ import annotations

from ..triton_common.language import jit, tl


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
