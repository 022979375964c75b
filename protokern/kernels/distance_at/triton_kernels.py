"""The Triton kernel of `distance_at`. Letters as in geometry.py; ROWS entries of one image per program.

An image has one entry or several for every prototype.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_common.difference import is_finite_row, row_distance
from ..triton_common.indexing import cell_offset, take_tile


@triton.jit
def distance_at_kernel(
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x,
    patch_ptr, patch_stride_b, patch_stride_p, patch_stride_m, value_ptr, num_entries, per_pair, columns, depth,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The distance of ROWS entries of one image, each of which is a prototype and a patch."""
    entry, rest = take_tile(tl.program_id(0), num_entries, ROWS)
    image = rest.to(tl.int64)
    inside = entry < num_entries
    prototype = (entry // per_pair).to(tl.int64)
    number = (entry % per_pair).to(tl.int64)
    patch_at = image * patch_stride_b + prototype * patch_stride_p + number * patch_stride_m
    patch = tl.load(patch_ptr + patch_at, mask=inside, other=0)
    x_offset = image * x_stride_b + cell_offset(patch, columns, x_stride_y, x_stride_x)
    p_offset = prototype * p_stride_p
    distance = row_distance(
        x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x,
        inside, depth, METRIC, KH, KW, COMPUTE, ROWS,
    )  # fmt: skip
    # An infinite component makes an infinite distance, and the rule asks for NaN.
    is_finite = is_finite_row(x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, inside, depth, KH, KW, COMPUTE, ROWS)
    is_finite &= is_finite_row(
        p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, inside, depth, KH, KW, COMPUTE, ROWS
    )
    tl.store(value_ptr + image * num_entries + entry, tl.where(is_finite, distance, float("nan")), mask=inside)
