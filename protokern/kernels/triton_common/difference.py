"""The difference form of a distance inside a kernel, summed in an order that depends on nothing but the vectors.

Every Triton kernel that returns a distance calls `row_distance`, whatever its tiles and warps: the same pair of vectors
gives the same bits everywhere.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..metric_in_triton import triton_is_unit, triton_pair_term, triton_pair_value
from .indexing import tap_offset

is_unit, pair_term, pair_value = triton_is_unit(), triton_pair_term(), triton_pair_value()


@triton.jit
def add_pairs(terms, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Neighbours added: (ROWS, WIDTH) to (ROWS, WIDTH / 2)."""
    even, odd = tl.split(tl.reshape(terms, [ROWS, WIDTH // 2, 2]))
    return even + odd


@triton.jit
def add_up_16(terms, ROWS: tl.constexpr):
    """Sums over the last dimension, (ROWS, 16) to (ROWS,), by halving; `tl.sum` adds in an order set by the layout."""
    terms = add_pairs(terms, ROWS, 16)
    terms = add_pairs(terms, ROWS, 8)
    terms = add_pairs(terms, ROWS, 4)
    even, odd = tl.split(terms)
    return even + odd


@triton.jit
def add_up_32(terms, ROWS: tl.constexpr):
    """Sums over the last dimension, (ROWS, 32) to (ROWS,), by halving."""
    return add_up_16(add_pairs(terms, ROWS, 32), ROWS)


@triton.jit
def load_terms(
    pointer, offset, stride_d, stride_y, stride_x, mask, tap, k, depth, KW: tl.constexpr, COMPUTE: tl.constexpr
):
    """Channels `k` (32,) of cell `tap` of the vectors at `offset` (rows,); 0 where masked."""
    at = offset[:, None] + tap_offset(tap, stride_y, stride_x, KW) + k.to(tl.int64)[None, :] * stride_d
    return tl.load(pointer + at, mask=mask[:, None] & (k < depth)[None, :], other=0.0).to(COMPUTE)


@triton.jit
def row_norm(
    pointer, offset, stride_d, stride_y, stride_x, mask, depth,
    KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A scale (rows,) close to the largest component of vectors, and the norm (rows,) of what a division by it leaves.

    The scale keeps the squares of tiny and of huge vectors in range. The norm of a zero vector, and only that, is 0.
    """
    column = tl.arange(0, 32)
    largest = tl.zeros([ROWS, 32], COMPUTE)
    for tap in range(KH * KW):
        for k0 in range(0, depth, 32):
            x = load_terms(pointer, offset, stride_d, stride_y, stride_x, mask, tap, k0 + column, depth, KW, COMPUTE)
            largest = tl.maximum(largest, tl.abs(x))
    # Reciprocals of subnormal numbers overflow; vectors shorter than this still have squares in range.
    SMALLEST: tl.constexpr = 1e-37 if COMPUTE.primitive_bitwidth == 32 else 1e-300
    scale = tl.max(largest, 1)
    is_zero = scale == 0
    scale = tl.maximum(scale, SMALLEST)
    inverse = 1 / scale
    squares = tl.zeros([ROWS, 32], COMPUTE)
    for tap in range(KH * KW):
        for k0 in range(0, depth, 32):
            x = load_terms(pointer, offset, stride_d, stride_y, stride_x, mask, tap, k0 + column, depth, KW, COMPUTE)
            x = x * inverse[:, None]
            squares = tl.fma(x, x, squares)
    return scale, tl.where(is_zero, 0.0, tl.sqrt(add_up_32(squares, ROWS)))


@triton.jit
def unit_divisors(
    pointer, offset, stride_d, stride_y, stride_x, mask, depth,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """`row_norm` of vectors in float32, to divide them by: 1 for the norm of a zero vector, and ones unless unit."""
    scale = tl.full([ROWS], 1.0, tl.float32)
    norm = tl.full([ROWS], 1.0, tl.float32)
    if is_unit(METRIC):
        scale, norm = row_norm(pointer, offset, stride_d, stride_y, stride_x, mask, depth, KH, KW, tl.float32, ROWS)
        norm = tl.where(norm == 0, 1.0, norm)
    return scale, norm


@triton.jit
def row_distance(
    x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x,
    mask, depth, METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Distance (rows,) in COMPUTE of the patches at `x_offset` (rows,) from the prototypes at `p_offset` (rows,).

    Offsets are int64 elements of the first cell. Rows where `mask` (rows,) is False are not loaded and give nonsense.
    """
    column = tl.arange(0, 32)
    has_zero = None
    if is_unit(METRIC):
        x_scale, x_norm = row_norm(
            x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, mask, depth, KH, KW, COMPUTE, ROWS
        )
        p_scale, p_norm = row_norm(
            p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, mask, depth, KH, KW, COMPUTE, ROWS
        )
        has_zero = (x_norm == 0) | (p_norm == 0)
        # Products with reciprocals: the same for equal vectors, and far less code than quotients of tiles.
        x_scale = 1 / x_scale
        p_scale = 1 / p_scale
        x_norm = 1 / tl.where(has_zero, 1.0, x_norm)
        p_norm = 1 / tl.where(has_zero, 1.0, p_norm)
    terms = tl.zeros([ROWS, 32], COMPUTE)
    for tap in range(KH * KW):
        for k0 in range(0, depth, 32):
            k = k0 + column
            x = load_terms(x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, mask, tap, k, depth, KW, COMPUTE)
            p = load_terms(p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, mask, tap, k, depth, KW, COMPUTE)
            if is_unit(METRIC):
                x = x * x_scale[:, None] * x_norm[:, None]
                p = p * p_scale[:, None] * p_norm[:, None]
            terms = pair_term(x, p, terms, METRIC)
    return pair_value(add_up_32(terms, ROWS), has_zero, METRIC)


@triton.jit
def is_finite_row(
    pointer, offset, stride_d, stride_y, stride_x, mask, depth,
    KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Whether every component of the vectors is finite, (rows,) bool; True where masked."""
    column = tl.arange(0, 32)
    bad = tl.zeros([ROWS, 32], tl.int32)
    for tap in range(KH * KW):
        for k0 in range(0, depth, 32):
            x = load_terms(pointer, offset, stride_d, stride_y, stride_x, mask, tap, k0 + column, depth, KW, COMPUTE)
            bad = tl.where(tl.abs(x) < float("inf"), bad, 1)
    return tl.max(bad, 1) == 0
