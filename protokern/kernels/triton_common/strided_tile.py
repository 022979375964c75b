"""Products of tiles of patches that lie as the user's tensor has them with prototypes from the operands of `prep`.

For few prototypes: the pass that writes operands of the patches moves their numbers twice more than a search that makes
them as it reads. Patches of one cell, squared Euclidean distances.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .prep import round_bits
from .search_tile import finish_scores, load_factors, lowest_bad, multiply


@triton.jit
def patch_offset(n, columns, stride_y, stride_x, DENSE: tl.constexpr):
    """Offset (BN,) int32 of the cells `n` (BN,) in an image; DENSE rows of cells begin where the last ones end."""
    return n * stride_x if DENSE else (n // columns) * stride_y + (n % columns) * stride_x


@triton.jit
def strided_products(
    p_high, p_low, prototype_row, pitch, x_ptr, x_offset, x_stride_d, centre_ptr, depth,
    CENTRE: tl.constexpr, DROPPED: tl.constexpr, SPLIT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Products (BP, BN) of prototypes, at the operand rows `prototype_row` (BP,), and patches, at `x_offset` (BN,).

    Also the squared norms (BN,) of the patches less the centre (pitch,), before rounding; NaN where one has a component
    that is not finite. The numbers are those that `prepare_rows` writes.
    """
    total = tl.zeros([BP, BN], tl.float32)
    squares = tl.zeros([BK, BN], tl.float32)
    for k0 in range(0, pitch, BK):
        k = k0 + tl.arange(0, BK)
        ph, pl = load_factors(p_high, p_low, prototype_row[:, None] * pitch + k[None, :], SPLIT)
        inside = (k < depth)[:, None]
        x = tl.load(x_ptr + (k[:, None] * x_stride_d + x_offset[None, :]), mask=inside, other=0.0)
        x = x.to(tl.float32)
        is_finite = tl.abs(x) < float("inf")
        if CENTRE:
            x -= tl.load(centre_ptr + k)[:, None]  # which is 0 from the last channel on
        x = tl.where(is_finite, x, 0.0)
        squares = tl.where(is_finite, tl.fma(x, x, squares), float("nan"))
        rounded = round_bits(x, DROPPED)
        xh = rounded.to(p_high.dtype.element_ty)
        xl = xh
        if SPLIT:
            xl = round_bits(x - rounded, DROPPED).to(p_low.dtype.element_ty)
        total = multiply(total, ph, pl, xh, xl, SPLIT, INPUT_PRECISION)
    return total, tl.sum(squares, 0)


@triton.jit
def strided_scores(
    p_high, p_low, prototype_row, pitch, x_ptr, x_stride_d, x_stride_y, x_stride_x, centre_ptr, factors,
    cell, columns, depth, bad, n, end,
    METRIC: tl.constexpr, DENSE: tl.constexpr, CENTRE: tl.constexpr, DROPPED: tl.constexpr, SPLIT: tl.constexpr,
    INPUT_PRECISION: tl.constexpr, RECHECK: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """As `tile_scores`, of the image at `x_ptr`: scores (BP, BN) of the patches at `cell`, and the lowest bad ones."""
    products, square = strided_products(
        p_high, p_low, prototype_row, pitch, x_ptr, patch_offset(cell, columns, x_stride_y, x_stride_x, DENSE),
        x_stride_d, centre_ptr, depth, CENTRE, DROPPED, SPLIT, INPUT_PRECISION, BP, BN, BK,
    )  # fmt: skip
    return finish_scores(products, square, factors, n, n < end, METRIC, RECHECK), lowest_bad(bad, square, n, end)
