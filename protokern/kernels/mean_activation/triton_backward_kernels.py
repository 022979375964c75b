"""The Triton kernels of the gradient of `mean_activation`: distances are computed again, tile by tile. No launches.

With w = g / N * activation'(d) for every pair, the gradients are sums of w times that of the distance (metric.py):
products of a tile of w with a tile of vectors, and for close pairs, which are left out of those, differences. Letters
as in triton_kernels.py; a program writes DB channels of its rows. Factors are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..similarity import triton_slope
from ..triton_common.difference import is_unit, unit_divisors
from ..triton_common.indexing import cell_offset, covering_patch, first_cell, take_tile, tap_offset, wide
from ..triton_common.search_tile import pair_products, patch_square, prototype_square, tap_row
from .metric_in_triton import triton_close_share, triton_gathered, triton_own_share
from .triton_kernels import column_offset, exact_distance, expanded_distance, first_of_row

slope = triton_slope()
close_share, own_share, gathered = triton_close_share(), triton_own_share(), triton_gathered()


@triton.jit
def weighted_sum(total, weight, vectors, row, k, pitch, INPUT_PRECISION: tl.constexpr):
    """`total` (R, DB) plus `weight` (R, C) times the channels `k` (DB,) of the operand rows `row` (C,)."""
    v = tl.load(vectors + row[:, None] * pitch + k[None, :], mask=(k < pitch)[None, :], other=0.0)
    return tl.dot(weight, v, total, input_precision=INPUT_PRECISION)


@triton.jit
def load_channels(pointer, offset, stride_d, k, depth, mask):
    """Channels `k` (DB,) of the cells at `offset` (R,) int64, float32; 0 where masked."""
    at = offset[:, None] + k.to(tl.int64)[None, :] * stride_d
    return tl.load(pointer + at, mask=mask[:, None] & (k < depth)[None, :], other=0.0).to(tl.float32)


@triton.jit
def add_close_pairs(
    total, weight, close, distance,
    a_ptr, a_offset, a_shift, a_stride_d, a_scale, a_norm,
    b_ptr, b_first, b_last, b_columns, b_down, b_right, b_shift, b_stride_d, b_stride_y, b_stride_x,
    k, depth, METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """`total` (R, DB) plus the weighted differences of the pairs that `close` flags, one of every row at a time.

    For unit vectors the part of the gradient that is to be divided by the norm of the row.
    """
    column = tl.arange(0, C)
    left = close
    while tl.max(tl.max(left, 1), 0) > 0:
        at = first_of_row(left, C)
        has_one = at < C
        hit = column[None, :] == at[:, None]
        b_at = column_offset(at, b_first, b_last, b_columns, b_down, b_right)
        w = tl.sum(tl.where(hit, weight, 0.0), 1)
        a = load_channels(a_ptr, a_offset + a_shift, a_stride_d, k, depth, has_one)
        b = load_channels(b_ptr, b_at + b_shift, b_stride_d, k, depth, has_one)
        d = tl.zeros([R], tl.float32)
        if is_unit(METRIC):
            b_scale, b_norm = unit_divisors(
                b_ptr, b_at, b_stride_d, b_stride_y, b_stride_x, has_one, depth, METRIC, KH, KW, R
            )
            a = a / a_scale[:, None] / a_norm[:, None]
            b = b / b_scale[:, None] / b_norm[:, None]
            d = tl.sum(tl.where(hit, distance, 0.0), 1)
        total += tl.where(has_one[:, None], w[:, None] * close_share(a, b, d, METRIC), 0.0)
        left = tl.where(hit, 0, left)
    return total


@triton.jit
def grad_rows(
    total, along, grad, live, a_row, a_norm_square, b_row, b_norm_square,
    a_vectors, b_vectors, b_tap, k, pitch, width,
    a_ptr, a_offset, a_shift, a_stride_d, a_stride_y, a_stride_x, a_scale, a_norm,
    b_ptr, b_first, b_last, b_columns, b_down, b_right, b_shift, b_stride_d, b_stride_y, b_stride_x,
    depth, epsilon,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    ACTIVATION: tl.constexpr, X_FIRST: tl.constexpr, R: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The share of one tile of pairs (R, C) in the gradient to its rows: `total` (R, DB) and `along` (R,).

    The gradient is `total` plus `along` times the row itself; for unit vectors the unit row, and divided by its norm.
    `grad` (R, C) is that of the mean divided by N; `live` (R, C) flags the pairs that exist.
    """
    products = pair_products(
        a_vectors, a_vectors, a_row, b_vectors, b_vectors, b_row, pitch, width,
        KW, KH * KW, False, INPUT_PRECISION, X_FIRST, R, C, BK,
    )  # fmt: skip
    distance, close = expanded_distance(products, a_norm_square, b_norm_square, METRIC)
    close = tl.where(live, close, 0)
    distance = exact_distance(
        distance, close, a_ptr, a_offset, a_stride_d, a_stride_y, a_stride_x,
        b_ptr, b_first, b_last, b_columns, b_down, b_right, b_stride_d, b_stride_y, b_stride_x,
        depth, METRIC, KH, KW, R, C,
    )  # fmt: skip
    weight = grad * slope(distance, epsilon, ACTIVATION)
    if is_unit(METRIC):
        has_zero = (a_norm_square == 0)[:, None] | (b_norm_square == 0)[None, :]
        weight = tl.where(has_zero, 0.0, weight)
    weight = tl.where(live, weight, 0.0)
    far = tl.where(close > 0, 0.0, weight)
    along += tl.sum(own_share(far, distance, METRIC), 1)
    if is_unit(METRIC):
        length = tl.sqrt(b_norm_square)
        far = far / tl.where(length == 0, 1.0, length)[None, :]
    total = weighted_sum(total, -far, b_vectors, b_row + b_tap, k, pitch, INPUT_PRECISION)
    total = add_close_pairs(
        total, weight, close, distance, a_ptr, a_offset, a_shift, a_stride_d, a_scale, a_norm,
        b_ptr, b_first, b_last, b_columns, b_down, b_right, b_shift, b_stride_d, b_stride_y, b_stride_x,
        k, depth, METRIC, KH, KW, R, C,
    )  # fmt: skip
    return total, along


@triton.jit
def finish_rows(
    total, along, a_vectors, a_row, a_ptr, a_offset, a_stride_d, a_scale, a_norm, k, pitch, depth, mask,
    METRIC: tl.constexpr,
):  # fmt: skip
    """The gradient (R, DB) out of what `grad_rows` gathered; `a_row` and `a_offset` are those of the cell written."""
    if is_unit(METRIC):
        unit = load_channels(a_ptr, a_offset, a_stride_d, k, depth, mask) / a_scale[:, None] / a_norm[:, None]
        result = gathered(total + along[:, None] * unit, METRIC) / a_scale[:, None] / a_norm[:, None]
    else:
        at = a_row[:, None] * pitch + k[None, :]
        inside = mask[:, None] & (k < pitch)[None, :]
        result = gathered(total + along[:, None] * tl.load(a_vectors + at, mask=inside, other=0.0), METRIC)
    return result


@triton.jit
def mean_grad_features_kernel(
    x_vectors, x_square, p_vectors, p_square,
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x,
    grad_ptr, out_ptr, out_stride_b, out_stride_d, out_stride_y, out_stride_x,
    num_prototypes, num_positions, num_cells, width, columns, depth, pitch, epsilon,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    ACTIVATION: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, DB: tl.constexpr,
):  # fmt: skip
    """DB channels of the gradient to BN cells of one image: over the patches that cover them, then over prototypes."""
    TAPS: tl.constexpr = KH * KW
    k, rest = take_tile(tl.program_id(0), depth, DB)
    cell, rest = take_tile(rest, num_cells, BN)
    image = rest.to(tl.int64)
    x_vectors += image * num_cells * pitch
    x_square += image * num_cells
    x_ptr += image * x_stride_b
    y = cell // width
    x = cell % width
    rows = num_positions // columns
    result = tl.zeros([BN, DB], tl.float32)
    for tap in range(TAPS):
        row, column, is_patch = covering_patch(y, x, tap, cell < num_cells, rows, columns, KW)
        row = tl.where(is_patch, row, 0)
        column = tl.where(is_patch, column, 0)
        first = row * width + column
        x_offset = row.to(tl.int64) * x_stride_y + column.to(tl.int64) * x_stride_x
        x_norm = patch_square(x_square, first, width, KW, TAPS)
        a_scale, a_norm = unit_divisors(
            x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, is_patch, depth, METRIC, KH, KW, BN
        )
        shift = tap_offset(tap, x_stride_y, x_stride_x, KW)
        p_shift = tap_offset(tap, p_stride_y, p_stride_x, KW)
        total = tl.zeros([BN, DB], tl.float32)
        along = tl.zeros([BN], tl.float32)
        for p0 in range(0, num_prototypes, BP):
            prototype = p0 + tl.arange(0, BP)
            clamped = tl.minimum(prototype, num_prototypes - 1)
            g = tl.load(grad_ptr + image * num_prototypes + clamped)
            p_row = clamped * TAPS
            total, along = grad_rows(
                total, along, tl.broadcast_to(g[None, :], [BN, BP]),
                is_patch[:, None] & (prototype < num_prototypes)[None, :],
                first, x_norm, p_row, prototype_square(p_square, p_row, TAPS),
                x_vectors, p_vectors, tap_row(tap, width, KW, False), k, pitch, width,
                x_ptr, x_offset, shift, x_stride_d, x_stride_y, x_stride_x, a_scale, a_norm,
                p_ptr, p0, num_prototypes - 1, 1, p_stride_p, 0, p_shift, p_stride_d, p_stride_y, p_stride_x,
                depth, epsilon, METRIC, KH, KW, INPUT_PRECISION, ACTIVATION, True, BN, BP, BK,
            )  # fmt: skip
        result += finish_rows(
            total, along, x_vectors, first + tap_row(tap, width, KW, True), x_ptr, x_offset + shift, x_stride_d,
            a_scale, a_norm, k, pitch, depth, is_patch, METRIC,
        )  # fmt: skip
    out = image * out_stride_b + cell_offset(cell, width, out_stride_y, out_stride_x)
    at = out[:, None] + k.to(tl.int64)[None, :] * out_stride_d
    tl.store(out_ptr + at, result.to(out_ptr.dtype.element_ty), mask=(cell < num_cells)[:, None] & (k < depth)[None, :])


@triton.jit
def mean_grad_prototypes_kernel(
    x_vectors, x_square, p_vectors, p_square,
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x,
    grad_ptr, work, num_images, num_prototypes, num_positions, num_cells, width, columns, depth, pitch, per_split,
    epsilon,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    ACTIVATION: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, DB: tl.constexpr,
):  # fmt: skip
    """DB channels at one cell of the gradient to BP prototypes from `per_split` images, to `work` (splits, P, T, D)."""
    TAPS: tl.constexpr = KH * KW
    k, rest = take_tile(tl.program_id(0), depth, DB)
    tap = rest % TAPS
    prototype, split = take_tile(rest // TAPS, num_prototypes, BP)
    inside = prototype < num_prototypes
    clamped = tl.minimum(prototype, num_prototypes - 1)
    p_row = clamped * TAPS
    p_norm = prototype_square(p_square, p_row, TAPS)
    p_offset = clamped.to(tl.int64) * p_stride_p
    a_scale, a_norm = unit_divisors(
        p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, inside, depth, METRIC, KH, KW, BP
    )
    shift = tap_offset(tap, p_stride_y, p_stride_x, KW)
    x_shift = tap_offset(tap, x_stride_y, x_stride_x, KW)
    total = tl.zeros([BP, DB], tl.float32)
    along = tl.zeros([BP], tl.float32)
    tiles = tl.cdiv(num_positions, BN)
    first_image = split * per_split
    num_tiles = (tl.minimum(first_image + per_split, num_images) - first_image) * tiles
    for step in range(num_tiles):
        image = wide(first_image + step // tiles)
        n = (step % tiles) * BN + tl.arange(0, BN)
        position = tl.minimum(n, num_positions - 1)
        cell = first_cell(position, columns, width, TAPS)
        g = tl.load(grad_ptr + image * num_prototypes + clamped)
        base = image * num_cells
        total, along = grad_rows(
            total, along, tl.broadcast_to(g[:, None], [BP, BN]), inside[:, None] & (n < num_positions)[None, :],
            p_row, p_norm, cell, patch_square(x_square + base, cell, width, KW, TAPS),
            p_vectors, x_vectors + base * pitch, tap_row(tap, width, KW, True), k, pitch, width,
            p_ptr, p_offset, shift, p_stride_d, p_stride_y, p_stride_x, a_scale, a_norm,
            x_ptr + image * x_stride_b, (step % tiles) * BN, num_positions - 1, columns, x_stride_y, x_stride_x,
            x_shift, x_stride_d, x_stride_y, x_stride_x,
            depth, epsilon, METRIC, KH, KW, INPUT_PRECISION, ACTIVATION, False, BP, BN, BK,
        )  # fmt: skip
    result = finish_rows(
        total, along, p_vectors, p_row + tap, p_ptr, p_offset + shift, p_stride_d,
        a_scale, a_norm, k, pitch, depth, inside, METRIC,
    )  # fmt: skip
    out = ((wide(split) * num_prototypes + prototype)[:, None] * TAPS + tap) * depth + k[None, :]
    tl.store(work + out, result, mask=inside[:, None] & (k < depth)[None, :])
