"""The kernel before a search by matrix products: vectors side by side in memory, centred, rounded, with their norms.

B images, N cells of an image, D channels, P prototypes of T cells. Source layouts are any strides; what comes out is
K-major: the D channels of a cell stand next to each other, followed by zeros up to the pitch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .difference import add_up_16
from .indexing import cell_offset, take_tile, tap_offset


@triton.jit
def round_bits(x, DROPPED: tl.constexpr):
    """Float32 rounded to nearest with the DROPPED low bits of its significand zero; ties go away from zero."""
    if DROPPED > 0:
        bits = x.to(tl.int32, bitcast=True) + (1 << (DROPPED - 1))
        x = (bits & -(1 << DROPPED)).to(tl.float32, bitcast=True)
    return x


@triton.jit
def sampled_centre(p_ptr, num_prototypes, stride_p, stride_d, k, depth, WIDTH: tl.constexpr):
    """Mean (WIDTH,) of the finite ones of 16 prototypes' channels `k`, taken evenly from all prototypes.

    Any centre gives the same distances; one that lies among the prototypes makes the norms small.
    """
    sample = (tl.arange(0, 16).to(tl.int64) * num_prototypes) // 16
    at = k.to(tl.int64)[:, None] * stride_d + sample[None, :] * stride_p
    p = tl.load(p_ptr + at, mask=(k < depth)[:, None] & (sample < num_prototypes)[None, :], other=0.0).to(tl.float32)
    is_finite = tl.abs(p) < float("inf")
    # A quarter of the largest number: the sum of sixteen such does not overflow after the division below.
    total = add_up_16(tl.where(is_finite, p * 0.0625, 0.0), WIDTH)
    count = add_up_16(tl.where(is_finite, 0.0625, 0.0), WIDTH)
    return total / tl.maximum(count, 0.0625)


@triton.jit
def prepare_rows(
    source, row_offset, stride_d, row_mask, out_row, scale, depth,
    p_ptr, num_prototypes, p_stride_p, p_stride_d,
    high, low, copy, square, pitch,
    SCALED: tl.constexpr, CENTRE: tl.constexpr, DROPPED: tl.constexpr, SPLIT: tl.constexpr, COPY: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write the operands of the vectors at `row_offset` (ROWS,) to the rows `out_row` (ROWS,)."""
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    largest = tl.zeros([ROWS, WIDTH], tl.float32)
    # What does not change is computed again in every step: kept, it would take more registers than there are.
    for k0 in tl.range(0, pitch, WIDTH, disable_licm=True):
        k = k0 + tl.arange(0, WIDTH)
        inside = row_mask[:, None] & (k < depth)[None, :]
        # Before the loads of the vectors, which would wait for it in registers.
        centre = tl.zeros([WIDTH], tl.float32)
        if CENTRE:
            centre = sampled_centre(p_ptr, num_prototypes, p_stride_p, p_stride_d, k, depth, WIDTH)
        raw = tl.load(source + row_offset[:, None] + k.to(tl.int64)[None, :] * stride_d, mask=inside, other=0.0)
        x = raw.to(tl.float32)
        if SCALED:
            largest = tl.maximum(largest, tl.abs(x))
            x = x / scale
        is_finite = tl.abs(x) < float("inf")
        if CENTRE:
            x = tl.where(inside, x - centre[None, :], 0.0)
        # As zeros, bad components keep NaN out of the products; the norm alone tells.
        x = tl.where(is_finite, x, 0.0)
        total = tl.where(is_finite, tl.fma(x, x, total), float("nan"))
        rounded = round_bits(x, DROPPED)
        out = out_row[:, None] * pitch + k[None, :]
        out_mask = row_mask[:, None] & (k < pitch)[None, :]
        tl.store(high + out, rounded.to(high.dtype.element_ty), mask=out_mask)
        if SPLIT:
            tl.store(low + out, round_bits(x - rounded, DROPPED).to(low.dtype.element_ty), mask=out_mask)
        if COPY:
            tl.store(copy + out_row[:, None] * depth + k[None, :], raw, mask=inside)
    sums = tl.sum(total, 1)
    if SCALED:
        # Only a zero vector has norm 0, not one whose squares underflow beside the largest of its image.
        sums = tl.where((sums == 0) & (tl.max(largest, 1) > 0), 1e-37, sums)
    tl.store(square + out_row, sums, mask=row_mask)


@triton.jit
def prep_kernel(
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x, x_scale, x_high, x_low, x_copy, x_square,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x, p_scale, p_high, p_low, p_square,
    centre_ptr, x_programs, num_cells, width, num_prototypes, depth, pitch,
    KW: tl.constexpr, TAPS: tl.constexpr, DENSE: tl.constexpr, SCALED: tl.constexpr, CENTRE: tl.constexpr,
    DROPPED: tl.constexpr, SPLIT: tl.constexpr, COPY: tl.constexpr, KEEP_CENTRE: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The first `x_programs` programs prepare ROWS cells of one image each, the others ROWS prototypes at one cell.

    With KEEP_CENTRE the first of the others writes what is taken away from all vectors, (pitch,) float32.
    """
    program = tl.program_id(0)
    # Names differ between the branches: a name in both must have one type.
    if program < x_programs:
        n, x_rest = take_tile(program, num_cells, ROWS)
        image = x_rest.to(tl.int64)
        x_size = tl.full([ROWS, 1], 1.0, tl.float32)
        if SCALED:
            x_size *= tl.load(x_scale + image)
        if DENSE:
            x_offset = image * x_stride_b + n.to(tl.int64) * x_stride_x
        else:
            x_offset = image * x_stride_b + cell_offset(n, width, x_stride_y, x_stride_x)
        prepare_rows(
            x_ptr, x_offset, x_stride_d, n < num_cells, image * num_cells + n, x_size, depth,
            p_ptr, num_prototypes, p_stride_p, p_stride_d, x_high, x_low, x_copy, x_square, pitch,
            SCALED, CENTRE, DROPPED, SPLIT, COPY, ROWS, WIDTH,
        )  # fmt: skip
    else:
        row, tap = take_tile(program - x_programs, num_prototypes, ROWS)
        inside = row < num_prototypes
        p_size = tl.full([ROWS, 1], 1.0, tl.float32)
        if SCALED:
            p_size = tl.load(p_scale + row, mask=inside, other=1.0)[:, None]
        p_offset = row.to(tl.int64) * p_stride_p + tap_offset(tap, p_stride_y, p_stride_x, KW)
        prepare_rows(
            p_ptr, p_offset, p_stride_d, inside, row.to(tl.int64) * TAPS + tap, p_size, depth,
            p_ptr, num_prototypes, p_stride_p, p_stride_d, p_high, p_low, p_high, p_square, pitch,
            SCALED, CENTRE, DROPPED, SPLIT, False, ROWS, WIDTH,
        )  # fmt: skip
        if KEEP_CENTRE and program == x_programs:
            for k0 in range(0, pitch, WIDTH):
                k = k0 + tl.arange(0, WIDTH)
                centre = sampled_centre(p_ptr, num_prototypes, p_stride_p, p_stride_d, k, depth, WIDTH)
                tl.store(centre_ptr + k, centre, mask=k < pitch)
