"""Products of tiles of patches and prototypes, from the operands of `prep`, and the scores of a search.

A score is the distance less what is the same for all positions: |x|^2 - 2 x.p, -x.p / |x| for cosine, -x.p for dot.
With weights w of the patches, which come as `factors` of weight_kernels.py: |x|^2 - log w - 2 x.p, and w times the
others.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..metric_in_triton import triton_is_unit, triton_score, triton_score_gap, triton_weight_of

is_unit, score, score_gap = triton_is_unit(), triton_score(), triton_score_gap()
weight_of = triton_weight_of()

NO_POSITION = tl.constexpr(2**31 - 1)


@triton.jit
def multiply(total, p_high, p_low, x_high, x_low, SPLIT: tl.constexpr, INPUT_PRECISION: tl.constexpr):
    """`total` plus the product of (P, K) and (K, N) factors; three products, smallest first, for split factors."""
    if SPLIT:
        total = tl.dot(p_low, x_high, total, input_precision=INPUT_PRECISION)
        total = tl.dot(p_high, x_low, total, input_precision=INPUT_PRECISION)
    return tl.dot(p_high, x_high, total, input_precision=INPUT_PRECISION)


@triton.jit
def load_factors(high, low, at, SPLIT: tl.constexpr):
    """Both parts of split factors; the one there is, twice, of others."""
    first = tl.load(high + at)
    rest = first
    if SPLIT:
        rest = tl.load(low + at)
    return first, rest


@triton.jit
def of_image(high, low, square, image, num_cells, pitch):
    """The operands of the features from the first cell of `image` (int64) on."""
    cell = image * num_cells
    return high + cell * pitch, low + cell * pitch, square + cell


@triton.jit
def tap_row(tap, width, KW: tl.constexpr, IS_X: tl.constexpr):
    """Rows of the operands from the first cell of a vector to its cell `tap`."""
    if IS_X:
        tap = (tap // KW) * width + tap % KW
    return tap


@triton.jit
def pair_products(
    a_high, a_low, a_row, b_high, b_low, b_row, pitch, width,
    KW: tl.constexpr, TAPS: tl.constexpr, SPLIT: tl.constexpr, INPUT_PRECISION: tl.constexpr, X_FIRST: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Products (R, C) of whole vectors that start at the operand rows `a_row` (R,) and `b_row` (C,).

    The first are patches and the others prototypes where X_FIRST, the other way round elsewhere.
    """
    total = tl.zeros([R, C], tl.float32)
    steps = tl.cdiv(pitch, BK)
    for step in range(TAPS * steps):
        k = (step % steps) * BK + tl.arange(0, BK)
        tap = step // steps
        a_at = (a_row + tap_row(tap, width, KW, X_FIRST))[:, None] * pitch + k[None, :]
        b_at = (b_row + tap_row(tap, width, KW, not X_FIRST))[None, :] * pitch + k[:, None]
        ah, al = load_factors(a_high, a_low, a_at, SPLIT)
        bh, bl = load_factors(b_high, b_low, b_at, SPLIT)
        total = multiply(total, ah, al, bh, bl, SPLIT, INPUT_PRECISION)
    return total


@triton.jit
def patch_square(square, first_cell, width, KW: tl.constexpr, TAPS: tl.constexpr):
    """Squared norms of patches from those of their cells; NaN where a cell has a component that is not finite."""
    total = tl.load(square + first_cell)
    for tap in range(1, TAPS):
        total += tl.load(square + first_cell + (tap // KW) * width + tap % KW)
    return total


@triton.jit
def prototype_square(square, row, TAPS: tl.constexpr):
    """Squared norms of prototypes, whose first cells are the operand rows `row`, from those of their cells; or NaN."""
    total = tl.load(square + row)
    for tap in range(1, TAPS):
        total += tl.load(square + row + tap)
    return total


@triton.jit
def finish_scores(products, square, factors, n, inside, METRIC: tl.constexpr, RECHECK: tl.constexpr):
    """Scores (BP, BN) from products and squared norms (BN,) of patches `n`; inf where not `inside`, or of weight 0.

    With RECHECK, what overflow or underflow made unusable is -inf, so that nothing is decided by it. Without, products
    that overflow are NaN, and their tile may be passed over.
    """
    factor = None
    if factors is not None:
        factor = tl.load(factors + n, mask=inside, other=0.0)
        _, is_used = weight_of(factor, METRIC)
        inside &= is_used
    return score(products, square, factor, inside, RECHECK, METRIC)


@triton.jit
def lowest_bad(bad, square, n, end):
    """`bad` (BN,), the lowest patches that were not finite so far, after those of `n` (BN,) below `end`."""
    return tl.minimum(bad, tl.where((square != square) & (n < end), n, NO_POSITION))


@triton.jit
def tile_scores(
    products, bad, x_square, factors, cell, n, end, width,
    KW: tl.constexpr, TAPS: tl.constexpr, METRIC: tl.constexpr, RECHECK: tl.constexpr,
):  # fmt: skip
    """Scores (BP, BN) of the patches `n` (BN,) below `end`, and `bad` (BN,), the lowest that were not finite so far."""
    square = patch_square(x_square, cell, width, KW, TAPS)
    return finish_scores(products, square, factors, n, n < end, METRIC, RECHECK), lowest_bad(bad, square, n, end)


@triton.jit
def is_apart(lower, higher, square, distance, longest, product_error, sum_error, METRIC: tl.constexpr):
    """Whether the exact scores of a prototype are in the order of two rounded ones, `lower` and `higher` (BP,).

    A score is off by at most product_error |x||p| + sum_error (|x| + |p|)^2, and |x| <= |p| + sqrt(d): `square` is
    |p|^2 and `distance` the larger d. Where d bounds no length, `longest` points at the largest |x| of the image; it is
    None elsewhere. Scores of -inf tell nothing. For a zero prototype all unit vectors have the same score.
    """
    doubt = score_gap(tl.sqrt(square), distance, longest, product_error, sum_error, METRIC)
    if is_unit(METRIC):
        result = (square == 0) | ((higher > lower + doubt) & (lower > float("-inf")))
    else:
        result = (higher > lower + doubt) & (lower > float("-inf"))
    return result
