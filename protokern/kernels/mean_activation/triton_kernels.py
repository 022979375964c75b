"""Distances of a tile of pairs, close pairs in difference form, and the forward of `mean_activation`. No launches.

Letters as in min_distance/triton_kernels.py. A tile has R rows and C columns; patches are its rows and prototypes its
columns where X_FIRST, the other way round elsewhere, so that the product of a backward needs no transposed tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..similarity import triton_value
from ..triton_common.difference import is_finite_row, row_distance
from ..triton_common.indexing import cell_offset, first_cell, take_split
from ..triton_common.search_tile import of_image, pair_products, patch_square, prototype_square
from .metric_in_triton import triton_expanded

similarity, expanded = triton_value(), triton_expanded()

# As in reference.py: nearer than this share of the squared lengths, the expanded form has lost three bits.
CLOSE = tl.constexpr(0.125)
# Below, the squares of a vector have lost digits.
VAGUE = tl.constexpr(1e-30)


@triton.jit
def expanded_distance(products, a_square, b_square, METRIC: tl.constexpr):
    """Distances (R, C) in the expanded form, and where a difference has to replace it, as 0 and 1.

    NaN where a vector is not finite. Sums that overflow are for the difference form.
    """
    distance, close = expanded(products, a_square, b_square, CLOSE, VAGUE, METRIC)
    return distance, close.to(tl.int32)


@triton.jit
def first_of_row(flags, COLUMNS: tl.constexpr):
    """The first column whose flag (R, COLUMNS) is 1, COLUMNS where there is none: (R,)."""
    column = tl.arange(0, COLUMNS)
    return tl.min(tl.where(flags > 0, column[None, :], COLUMNS), 1)


@triton.jit
def column_offset(at, first, last, columns, down, right):
    """Offset (R,) of the vectors at the columns `at` (R,) of a tile that begins at vector `first`.

    Vectors lie in rows of `columns`, `down` and `right` elements apart; those past the `last` are the last. To keep the
    offsets of all columns instead takes some forty registers of every thread.
    """
    return cell_offset(tl.minimum(first + at, last), columns, down, right)


@triton.jit
def exact_distance(
    distance, close,
    a_ptr, a_offset, a_stride_d, a_stride_y, a_stride_x,
    b_ptr, b_first, b_last, b_columns, b_down, b_right, b_stride_d, b_stride_y, b_stride_x,
    depth, METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """`distance` (R, C) with the pairs that `close` flags in difference form, one of every row at a time.

    `a_offset` (R,) are int64 elements; `b_first` and what follows say where the columns are, as in `column_offset`.
    """
    column = tl.arange(0, C)
    left = close
    while tl.max(tl.max(left, 1), 0) > 0:
        at = first_of_row(left, C)
        hit = column[None, :] == at[:, None]
        b_at = column_offset(at, b_first, b_last, b_columns, b_down, b_right)
        exact = row_distance(
            a_ptr, a_offset, a_stride_d, a_stride_y, a_stride_x, b_ptr, b_at, b_stride_d, b_stride_y, b_stride_x,
            at < C, depth, METRIC, KH, KW, tl.float32, R,
        )  # fmt: skip
        # An infinite difference less an infinite one: infinite.
        exact = tl.where(exact == exact, exact, float("inf"))
        distance = tl.where(hit, exact[:, None], distance)
        left = tl.where(hit, 0, left)
    return distance


@triton.jit
def mean_activation_kernel(
    x_high, x_low, x_square, p_high, p_low, p_square,
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x,
    work, num_images, num_prototypes, num_positions, num_cells, width, columns, depth, pitch,
    num_splits, tiles_per_split, epsilon,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SPLIT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    ACTIVATION: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Sums over one split of the positions of one image, for BP prototypes, to `work` (splits, B, P)."""
    TAPS: tl.constexpr = KH * KW
    prototype, split, image, begin, end = take_split(num_prototypes, num_positions, num_splits, tiles_per_split, BP, BN)
    clamped = tl.minimum(prototype, num_prototypes - 1)
    p_row = clamped * TAPS
    p_norm = prototype_square(p_square, p_row, TAPS)
    x_high, x_low, x_square = of_image(x_high, x_low, x_square, image, num_cells, pitch)
    x_ptr += image * x_stride_b
    total = tl.zeros([BP], tl.float32)
    for n0 in range(begin, end, BN):
        n = n0 + tl.arange(0, BN)
        position = tl.minimum(n, num_positions - 1)
        cell = first_cell(position, columns, width, TAPS)
        products = pair_products(
            p_high, p_low, p_row, x_high, x_low, cell, pitch, width,
            KW, TAPS, SPLIT, INPUT_PRECISION, False, BP, BN, BK,
        )  # fmt: skip
        x_norm = patch_square(x_square, cell, width, KW, TAPS)
        distance, close = expanded_distance(products, p_norm, x_norm, METRIC)
        distance = exact_distance(
            distance, tl.where((n < end)[None, :], close, 0),
            p_ptr, clamped.to(tl.int64) * p_stride_p, p_stride_d, p_stride_y, p_stride_x,
            x_ptr, n0, num_positions - 1, columns, x_stride_y, x_stride_x, x_stride_d, x_stride_y, x_stride_x,
            depth, METRIC, KH, KW, BP, BN,
        )  # fmt: skip
        total += tl.sum(tl.where((n < end)[None, :], similarity(distance, epsilon, ACTIVATION), 0.0), 1)
    tl.store(work + (split * num_images + image) * num_prototypes + prototype, total, mask=prototype < num_prototypes)


@triton.jit
def mean_activation_direct_kernel(
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x,
    result_ptr, epsilon_ptr, num_prototypes, num_positions, columns, depth,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr, ACTIVATION: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    """The sum for one image and one prototype, of difference forms alone."""
    image = (tl.program_id(0) // num_prototypes).to(tl.int64)
    prototype = tl.program_id(0) % num_prototypes
    epsilon = tl.load(epsilon_ptr)
    p_offset = (tl.zeros([BN], tl.int64) + prototype) * p_stride_p
    total = tl.zeros([BN], COMPUTE)
    for n0 in range(0, num_positions, BN):
        n = n0 + tl.arange(0, BN)
        inside = n < num_positions
        x_offset = image * x_stride_b + cell_offset(n, columns, x_stride_y, x_stride_x)
        distance = row_distance(
            x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x,
            p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x,
            inside, depth, METRIC, KH, KW, COMPUTE, BN,
        )  # fmt: skip
        is_finite = is_finite_row(
            x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, inside, depth, KH, KW, COMPUTE, BN
        )
        is_finite &= is_finite_row(
            p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, inside, depth, KH, KW, COMPUTE, BN
        )
        distance = tl.where(is_finite, distance, float("nan"))
        total += tl.where(inside, similarity(distance, epsilon, ACTIVATION), 0.0)
    tl.store(result_ptr + image * num_prototypes + prototype, tl.sum(total, 0))
