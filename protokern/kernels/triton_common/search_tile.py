"""Scores of a tile of prototypes against a tile of positions by matrix products, from the operands of `prep`.

A score is the distance less what is the same for all positions: |x|^2 - 2 x.p, or -x.p / |x| for cosine.
"""

from __future__ import annotations

import triton
import triton.language as tl

NO_POSITION = tl.constexpr(2**31 - 1)


@triton.jit
def multiply(total, p_high, p_low, x_high, x_low, SPLIT: tl.constexpr, INPUT_PRECISION: tl.constexpr):
    """`total` plus the product of (P, K) and (K, N) factors; three products, smallest first, for split factors."""
    if SPLIT:
        total = tl.dot(p_low, x_high, total, input_precision=INPUT_PRECISION)
        total = tl.dot(p_high, x_low, total, input_precision=INPUT_PRECISION)
    return tl.dot(p_high, x_high, total, input_precision=INPUT_PRECISION)


@triton.jit
def tile_products(
    x_high, x_low, first_cell, p_high, p_low, prototype_row, pitch, width,
    KW: tl.constexpr, TAPS: tl.constexpr, SPLIT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Products (BP, BN) of whole vectors: `first_cell` (BN,) rows of x, `prototype_row` (BP,) rows of p."""
    total = tl.zeros([BP, BN], tl.float32)
    steps_per_tap = tl.cdiv(pitch, BK)
    for step in range(TAPS * steps_per_tap):
        k = (step % steps_per_tap) * BK + tl.arange(0, BK)
        tap = step // steps_per_tap
        cell = first_cell + (tap // KW) * width + tap % KW
        x_at = cell[None, :] * pitch + k[:, None]
        p_at = (prototype_row + tap)[:, None] * pitch + k[None, :]
        xh = tl.load(x_high + x_at)
        ph = tl.load(p_high + p_at)
        xl = xh
        pl = ph
        if SPLIT:
            xl = tl.load(x_low + x_at)
            pl = tl.load(p_low + p_at)
        total = multiply(total, ph, pl, xh, xl, SPLIT, INPUT_PRECISION)
    return total


@triton.jit
def patch_square(square, first_cell, width, KW: tl.constexpr, TAPS: tl.constexpr):
    """Squared norms of patches from those of their cells; NaN where a cell has a component that is not finite."""
    total = tl.load(square + first_cell)
    for tap in range(1, TAPS):
        total += tl.load(square + first_cell + (tap // KW) * width + tap % KW)
    return total


@triton.jit
def finish_scores(products, square, inside, COSINE: tl.constexpr, RECHECK: tl.constexpr):
    """Scores (BP, BN) from products and squared norms (BN,); inf where not `inside` (BN,).

    With RECHECK, what overflow or underflow made unusable is -inf, so that nothing is decided by it. Without, products
    that overflow are NaN, and their tile may be passed over.
    """
    if COSINE:
        # The largest component of an image is about 1, so no product overflows. Far below, squares have lost digits;
        # exactly 0 is a zero vector.
        factor = tl.where(square > 0, -1.0 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)
        base = tl.where(inside, 0.0, float("inf"))
        if RECHECK:
            base = tl.where(inside & (square > 0) & (square < 1e-30), float("-inf"), base)
        scores = tl.fma(
            products, tl.broadcast_to(factor[None, :], products.shape), tl.broadcast_to(base[None, :], products.shape)
        )
    else:
        if RECHECK:
            scores = tl.fma(products, -2.0, tl.broadcast_to(square[None, :], products.shape))
            scores = tl.where(scores == scores, scores, float("-inf"))
            scores = tl.where(inside[None, :], scores, float("inf"))
        else:
            base = tl.where(inside & (square == square), square, float("inf"))
            scores = tl.fma(products, -2.0, tl.broadcast_to(base[None, :], products.shape))
    return scores
