"""The Triton kernel of `distance_map`. Letters as in geometry.py; BN patches and BP prototypes per program."""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_common.difference import (
    add_up_32,
    is_finite_row,
    is_unit,
    load_terms,
    pair_term,
    pair_value,
    row_norm,
)
from ..triton_common.indexing import cell_offset, take_tile


@triton.jit
def distance_map_kernel(
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x,
    result_ptr, num_prototypes, num_positions, columns, depth,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr,
    BN: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """A tile of distances, each summed in the order of `row_distance`, so that they are the same bits."""
    n, rest = take_tile(tl.program_id(0), num_positions, BN)
    prototype, rest = take_tile(rest, num_prototypes, BP)
    image = rest.to(tl.int64)
    n_inside = n < num_positions
    p_inside = prototype < num_prototypes
    x_offset = image * x_stride_b + cell_offset(n, columns, x_stride_y, x_stride_x)
    p_offset = prototype.to(tl.int64) * p_stride_p
    has_zero = None
    if is_unit(METRIC):
        x_scale, x_norm = row_norm(
            x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, n_inside, depth, KH, KW, COMPUTE, BN
        )
        p_scale, p_norm = row_norm(
            p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, p_inside, depth, KH, KW, COMPUTE, BP
        )
        has_zero = (x_norm == 0)[:, None] | (p_norm == 0)[None, :]
        x_scale = 1 / x_scale
        p_scale = 1 / p_scale
        x_norm = 1 / tl.where(x_norm == 0, 1.0, x_norm)
        p_norm = 1 / tl.where(p_norm == 0, 1.0, p_norm)
    column = tl.arange(0, 32)
    terms = tl.zeros([BN, BP, 32], COMPUTE)
    for tap in range(KH * KW):
        for k0 in range(0, depth, 32):
            k = k0 + column
            x = load_terms(x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, n_inside, tap, k, depth, KW, COMPUTE)
            p = load_terms(p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, p_inside, tap, k, depth, KW, COMPUTE)
            if is_unit(METRIC):
                x = x * x_scale[:, None] * x_norm[:, None]
                p = p * p_scale[:, None] * p_norm[:, None]
            terms = pair_term(x[:, None, :], p[None, :, :], terms, METRIC)
    distance = tl.reshape(add_up_32(tl.reshape(terms, [BN * BP, 32]), BN * BP), [BN, BP])
    distance = pair_value(distance, has_zero, METRIC)
    x_finite = is_finite_row(x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, n_inside, depth, KH, KW, COMPUTE, BN)
    p_finite = is_finite_row(p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, p_inside, depth, KH, KW, COMPUTE, BP)
    distance = tl.where(x_finite[:, None] & p_finite[None, :], distance, float("nan"))
    out = (image * num_prototypes + prototype)[None, :] * num_positions + n[:, None]
    tl.store(result_ptr + out, distance, mask=n_inside[:, None] & p_inside[None, :])
