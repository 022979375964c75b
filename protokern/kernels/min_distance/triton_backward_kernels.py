"""The Triton kernels of the gradient of `min_distance`: gathers in the difference form, without atomics or products.

B images, N = H' W' patches of T = h w cells, D channels, P prototypes. A pair is an image and a prototype; its patch
receives weight * (x - p), and the prototype the negative. Sums run in ascending order of prototype or image.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..metric_in_triton import triton_pair_gradient
from ..triton_common.difference import is_unit, row_distance, row_norm
from ..triton_common.indexing import cell_offset, covering_patch, take_tile, tap_offset, wide

gradient_of_pair = triton_pair_gradient()


@triton.jit
def pair_gradient(
    x, p, weight, distance, x_inverse, p_inverse, METRIC: tl.constexpr, TO_PROTOTYPE: tl.constexpr
):  # fmt: skip
    """Gradient of one component, to x or to p, from tiles (rows, channels), pair values (rows, 1)."""
    if is_unit(METRIC):
        x = x * x_inverse
        p = p * p_inverse
    result = gradient_of_pair(x, p, weight, distance, TO_PROTOTYPE, METRIC)
    if is_unit(METRIC):
        result = result * (p_inverse if TO_PROTOTYPE else x_inverse)
    return result


@triton.jit
def pair_values_kernel(
    grad_ptr, patch_ptr, weight_ptr, distance_ptr, x_inverse_ptr, p_inverse_ptr,
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x,
    num_prototypes, columns, depth,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """For unit vectors: weight (0 where a vector is zero), distance and inverse norms of BP pairs of one image."""
    prototype, rest = take_tile(tl.program_id(0), num_prototypes, BP)
    image = rest.to(tl.int64)
    inside = prototype < num_prototypes
    pair = image * num_prototypes + prototype
    patch = tl.load(patch_ptr + pair, mask=inside, other=0).to(tl.int32)
    x_offset = image * x_stride_b + cell_offset(patch, columns, x_stride_y, x_stride_x)
    p_offset = prototype.to(tl.int64) * p_stride_p
    distance = row_distance(
        x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x,
        p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, inside, depth, METRIC, KH, KW, COMPUTE, BP,
    )  # fmt: skip
    x_scale, x_norm = row_norm(x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, inside, depth, KH, KW, COMPUTE, BP)
    p_scale, p_norm = row_norm(p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, inside, depth, KH, KW, COMPUTE, BP)
    has_zero = (x_norm == 0) | (p_norm == 0)
    weight = tl.load(grad_ptr + pair, mask=inside, other=0.0).to(COMPUTE)
    tl.store(weight_ptr + pair, tl.where(has_zero, 0.0, weight), mask=inside)
    tl.store(distance_ptr + pair, distance, mask=inside)
    tl.store(x_inverse_ptr + pair, tl.where(has_zero, 0.0, 1 / tl.where(has_zero, 1.0, x_scale * x_norm)), mask=inside)
    tl.store(p_inverse_ptr + pair, tl.where(has_zero, 0.0, 1 / tl.where(has_zero, 1.0, p_scale * p_norm)), mask=inside)


@triton.jit
def load_pair(
    pair, mask, weight_ptr, distance_ptr, x_inverse_ptr, p_inverse_ptr, METRIC: tl.constexpr, COMPUTE: tl.constexpr
):  # fmt: skip
    """Weight, distance and inverse norms (rows, 1) of pairs (rows,)."""
    weight = tl.load(weight_ptr + pair, mask=mask, other=0.0).to(COMPUTE)
    distance = weight
    x_inverse = weight
    p_inverse = weight
    if is_unit(METRIC):
        distance = tl.load(distance_ptr + pair, mask=mask, other=0.0)
        x_inverse = tl.load(x_inverse_ptr + pair, mask=mask, other=0.0)
        p_inverse = tl.load(p_inverse_ptr + pair, mask=mask, other=0.0)
    return weight[:, None], distance[:, None], x_inverse[:, None], p_inverse[:, None]


@triton.jit
def grad_prototypes_kernel(
    weight_ptr, distance_ptr, x_inverse_ptr, p_inverse_ptr, patch_ptr,
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x,
    grad_ptr, grad_stride_s, grad_stride_p, grad_stride_d, grad_stride_y, grad_stride_x,
    num_images, num_prototypes, columns, depth, images_per_split,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr,
    BP: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program: BK channels of one cell of BP prototypes, summed over one split of the images."""
    prototype, rest = take_tile(tl.program_id(0), num_prototypes, BP)
    k, rest = take_tile(rest, depth, BK)
    tap = rest % (KH * KW)
    split = rest // (KH * KW)
    inside = prototype < num_prototypes
    mask = inside[:, None] & (k < depth)[None, :]
    row = prototype.to(tl.int64)[:, None]
    channel = k.to(tl.int64)[None, :]
    p_at = row * p_stride_p + channel * p_stride_d + tap_offset(tap, p_stride_y, p_stride_x, KW)
    p = tl.load(p_ptr + p_at, mask=mask, other=0.0).to(COMPUTE)
    x_channel = channel * x_stride_d + tap_offset(tap, x_stride_y, x_stride_x, KW)
    total = tl.zeros([BP, BK], COMPUTE)
    for image in range(split * images_per_split, tl.minimum((split + 1) * images_per_split, num_images)):
        pair = wide(image) * num_prototypes + prototype
        patch = tl.load(patch_ptr + pair, mask=inside, other=0).to(tl.int32)
        x_offset = wide(image) * x_stride_b + cell_offset(patch, columns, x_stride_y, x_stride_x)
        x = tl.load(x_ptr + x_offset[:, None] + x_channel, mask=mask, other=0.0).to(COMPUTE)
        weight, distance, x_inverse, p_inverse = load_pair(
            pair, inside, weight_ptr, distance_ptr, x_inverse_ptr, p_inverse_ptr, METRIC, COMPUTE
        )
        total += pair_gradient(x, p, weight, distance, x_inverse, p_inverse, METRIC, True)
    out = (
        wide(split) * grad_stride_s
        + row * grad_stride_p
        + channel * grad_stride_d
        + tap_offset(tap, grad_stride_y, grad_stride_x, KW)
    )
    tl.store(grad_ptr + out, total.to(grad_ptr.dtype.element_ty), mask=mask)


@triton.jit
def grad_features_kernel(
    weight_ptr, distance_ptr, x_inverse_ptr, p_inverse_ptr, order_ptr, start_ptr,
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x,
    grad_ptr, grad_stride_b, grad_stride_d, grad_stride_y, grad_stride_x,
    num_prototypes, num_positions, num_cells, width, rows, columns, depth,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr, DENSE: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """One program: BK channels of BN cells of one image; cells that no prototype chose get zeros.

    `order` (B, P) lists an image's prototypes by patch, those of patch n from `start[b, n]` to `start[b, n + 1]`.
    Step by step every cell takes its next AT_ONCE prototypes.
    """
    cell, rest = take_tile(tl.program_id(0), num_cells, BN)
    k, rest = take_tile(rest, depth, BK)
    image = rest.to(tl.int64)
    inside = cell < num_cells
    mask = inside[:, None] & (k < depth)[None, :]
    channel = k.to(tl.int64)[None, :]
    y = cell // width
    x_column = cell % width
    if DENSE:
        x_cell = cell.to(tl.int64) * x_stride_x
        out_cell = cell.to(tl.int64) * grad_stride_x
    else:
        x_cell = cell_offset(cell, width, x_stride_y, x_stride_x)
        out_cell = cell_offset(cell, width, grad_stride_y, grad_stride_x)
    x = tl.load(
        x_ptr + image * x_stride_b + x_cell[:, None] + channel * x_stride_d, mask=mask, other=0.0
    ).to(COMPUTE)  # fmt: skip
    total = tl.zeros([BN, BK], COMPUTE)
    for tap in range(KH * KW):
        row, column, covers = covering_patch(y, x_column, tap, inside, rows, columns, KW)
        position = image * (num_positions + 1) + row * columns + column
        start = tl.load(start_ptr + position, mask=covers, other=0).to(tl.int32)
        end = tl.load(start_ptr + position + 1, mask=covers, other=0).to(tl.int32)
        p_channel = channel * p_stride_d + tap_offset(tap, p_stride_y, p_stride_x, KW)
        for step in range(0, tl.max(end - start, 0), AT_ONCE):
            for extra in tl.static_range(AT_ONCE):
                entry = start + step + extra
                live = entry < end
                prototype = tl.load(order_ptr + image * num_prototypes + entry, mask=live, other=0)
                p_at = prototype.to(tl.int64)[:, None] * p_stride_p + p_channel
                p = tl.load(p_ptr + p_at, mask=mask & live[:, None], other=0.0).to(COMPUTE)
                weight, distance, x_inverse, p_inverse = load_pair(
                    image * num_prototypes + prototype, live, weight_ptr, distance_ptr, x_inverse_ptr, p_inverse_ptr,
                    METRIC, COMPUTE,
                )  # fmt: skip
                part = pair_gradient(x, p, weight, distance, x_inverse, p_inverse, METRIC, False)
                total += tl.where(live[:, None], part, 0.0)
    out = image * grad_stride_b + out_cell[:, None] + channel * grad_stride_d
    tl.store(grad_ptr + out, total.to(grad_ptr.dtype.element_ty), mask=mask)
