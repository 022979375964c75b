"""The Triton kernels of the search for the nearest patch. No launches: those are in triton_launch.py.

B images, N = H' W' patches, D channels, T = h w cells of a patch, P prototypes, S splits of N. Prototype tiles hold BP
prototypes, position tiles BN patches, products run over BK channels at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..similarity import triton_value
from ..triton_common.difference import is_finite_row, row_distance
from ..triton_common.indexing import cell_offset, first_cell, take_split, take_tile, wide
from ..triton_common.search_tile import (
    NO_POSITION,
    is_apart,
    load_factors,
    multiply,
    of_image,
    pair_products,
    prototype_square,
    tile_scores,
)
from ..triton_common.strided_tile import strided_scores
from ..triton_common.weight_kernels import first_spoilt, first_usable, weigh

similarity = triton_value()


@triton.jit
def take_nearest(
    scores, n, best, second, index, RECHECK: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """Best score, runner-up and index (BP,) so far, after the tile of positions `n` (BN,); earlier ones win ties."""
    tile_best, at = tl.min(scores, 1, return_indices=True)
    if RECHECK:
        others = tl.where(tl.arange(0, BN)[None, :] == at[:, None], float("inf"), scores)
        second = tl.minimum(tl.maximum(best, tile_best), tl.minimum(second, tl.min(others, 1)))
    first = tl.min(n, 0)
    index = tl.where(tile_best < best, first + at, index)
    best = tl.where(tile_best < best, tile_best, best)
    return best, second, index


@triton.jit
def finish_rows(
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x, p_square,
    factors, first, longest, value_ptr, patch_ptr, similarity_ptr, undecided_ptr,
    image, prototype, inside, best, second, index, first_bad, num_prototypes, num_positions, columns, depth,
    epsilon, product_error, sum_error,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, RECHECK: tl.constexpr, ACTIVATION: tl.constexpr,
    BP: tl.constexpr,
):  # fmt: skip
    """Write the results of one image and the prototypes (BP,): value at the patch, similarity, what stays in doubt.

    `factors` are those of the image.
    """
    first_bad = first_spoilt(first, image, first_bad)
    index = first_usable(first, image, index, best)
    clamped = tl.where(inside, prototype, 0).to(tl.int64)
    square = prototype_square(p_square, clamped * (KH * KW), KH * KW)
    image_bad = first_bad < NO_POSITION
    p_bad = square != square
    index = tl.where(image_bad, first_bad, index)
    index = tl.where(p_bad, 0, index)
    x_offset = image * x_stride_b + cell_offset(index, columns, x_stride_y, x_stride_x)
    distance = row_distance(
        x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x,
        p_ptr, clamped * p_stride_p, p_stride_d, p_stride_y, p_stride_x,
        inside, depth, METRIC, KH, KW, tl.float32, BP,
    )  # fmt: skip
    distance = weigh(distance, factors, index, inside, METRIC)
    value = tl.where(image_bad | p_bad, float("nan"), distance)
    out = image * num_prototypes + prototype
    tl.store(value_ptr + out, value, mask=inside)
    tl.store(patch_ptr + out, index.to(tl.int64), mask=inside)
    if ACTIVATION != "none":
        tl.store(similarity_ptr + out, similarity(value, epsilon, ACTIVATION), mask=inside)
    if RECHECK:
        if longest is not None:
            longest += image
        is_settled = is_apart(best, second, square, distance, longest, product_error, sum_error, METRIC)
        undecided = ~(is_settled | image_bad | p_bad)
        tl.store(undecided_ptr + out, undecided.to(tl.int8), mask=inside)


@triton.jit
def operand_scores(
    p_high, p_low, prototype_row, x_high, x_low, x_square, factors, cell, pitch, width, bad, n, end,
    KW: tl.constexpr, TAPS: tl.constexpr, METRIC: tl.constexpr, SPLIT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    RECHECK: tl.constexpr, RESIDENT: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Scores (BP, BN) of the patches at `cell` from operands, and the lowest bad patches so far.

    With RESIDENT the first two are the factors of the prototypes (BP, BK), else the operands where those lie.
    """
    if RESIDENT:
        xh, xl = load_factors(x_high, x_low, cell[None, :] * pitch + tl.arange(0, BK)[:, None], SPLIT)
        products = multiply(tl.zeros([BP, BN], tl.float32), p_high, p_low, xh, xl, SPLIT, INPUT_PRECISION)
    else:
        products = pair_products(
            p_high, p_low, prototype_row, x_high, x_low, cell, pitch, width,
            KW, TAPS, SPLIT, INPUT_PRECISION, False, BP, BN, BK,
        )  # fmt: skip
    return tile_scores(products, bad, x_square, factors, cell, n, end, width, KW, TAPS, METRIC, RECHECK)


@triton.jit
def keep_split(
    work_best, work_second, work_index, work_bad, row, num_prototypes, prototype,
    inside, best, second, index, first_bad, RECHECK: tl.constexpr,
):  # fmt: skip
    """Write what one split of an image found, the `row` of the workspaces, for the kernel that joins them."""
    at = row * num_prototypes + prototype
    tl.store(work_best + at, best, mask=inside)
    tl.store(work_index + at, index, mask=inside)
    if RECHECK:
        tl.store(work_second + at, second, mask=inside)
    tl.store(work_bad + row, first_bad)


@triton.jit
def min_distance_search_kernel(
    x_high, x_low, x_square, p_high, p_low, p_square, x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x, factors, first, longest,
    value_ptr, patch_ptr, similarity_ptr, undecided_ptr, work_best, work_second, work_index, work_bad,
    num_images, num_prototypes, num_positions, num_cells, width, columns, depth, pitch, tiles_per_split,
    epsilon, product_error, sum_error,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SPLIT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    RECHECK: tl.constexpr, ACTIVATION: tl.constexpr, SPLITS: tl.constexpr, RESIDENT: tl.constexpr,
    STRIDED: tl.constexpr, DENSE: tl.constexpr, CENTRE: tl.constexpr, DROPPED: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program: BP prototypes against one split of the positions of one image.

    With RESIDENT a vector fits BK, and the prototypes are loaded once. With STRIDED patches are read where they lie, as
    DENSE, CENTRE and DROPPED tell `prep_kernel` too, and `x_high` is the centre.
    """
    TAPS: tl.constexpr = KH * KW
    prototype, split, image, begin, end = take_split(num_prototypes, num_positions, SPLITS, tiles_per_split, BP, BN)
    inside = prototype < num_prototypes
    # Rows past the end are those of the last: loads need no mask, and the scores of positions past it are inf.
    prototype_row = tl.minimum(prototype, num_prototypes - 1) * TAPS
    if factors is not None:
        factors += image * num_positions
    if not STRIDED:
        x_high, x_low, x_square = of_image(x_high, x_low, x_square, image, num_cells, pitch)
    held_high, held_low = p_high, p_low
    if RESIDENT:
        at = prototype_row[:, None] * pitch + tl.arange(0, BK)[None, :]
        held_high, held_low = load_factors(p_high, p_low, at, SPLIT)
    best, second = tl.full([BP], float("inf"), tl.float32), tl.full([BP], float("inf"), tl.float32)
    index, bad = tl.zeros([BP], tl.int32), tl.full([BN], NO_POSITION, tl.int32)
    for n0 in range(begin, end, BN):
        n = n0 + tl.arange(0, BN)
        cell = first_cell(tl.minimum(n, num_positions - 1), columns, width, TAPS)
        if STRIDED:
            scores, bad = strided_scores(
                p_high, p_low, prototype_row, pitch, x_ptr + image * x_stride_b, x_stride_d, x_stride_y, x_stride_x,
                x_high, factors, cell, columns, depth, bad, n, end,
                METRIC, DENSE, CENTRE, DROPPED, SPLIT, INPUT_PRECISION, RECHECK, BP, BN, BK,
            )  # fmt: skip
        else:
            scores, bad = operand_scores(
                held_high, held_low, prototype_row, x_high, x_low, x_square, factors, cell, pitch, width,
                bad, n, end, KW, TAPS, METRIC, SPLIT, INPUT_PRECISION, RECHECK, RESIDENT, BP, BN, BK,
            )  # fmt: skip
        best, second, index = take_nearest(scores, n, best, second, index, RECHECK, BN)
    first_bad = tl.min(bad, 0)
    if SPLITS == 1:
        finish_rows(
            x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
            p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x, p_square,
            factors, first, longest, value_ptr, patch_ptr, similarity_ptr, undecided_ptr,
            image, prototype, inside, best, second, index, first_bad, num_prototypes, num_positions, columns, depth,
            epsilon, product_error, sum_error, METRIC, KH, KW, RECHECK, ACTIVATION, BP,
        )  # fmt: skip
    else:
        keep_split(
            work_best, work_second, work_index, work_bad, split * num_images + image, num_prototypes, prototype,
            inside, best, second, index, first_bad, RECHECK,
        )  # fmt: skip


@triton.jit
def min_distance_combine_kernel(
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x, factors, first, longest, p_square,
    value_ptr, patch_ptr, similarity_ptr, undecided_ptr,
    work_best, work_second, work_index, work_bad,
    num_images, num_prototypes, num_positions, columns, depth, epsilon, product_error, sum_error,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, RECHECK: tl.constexpr, ACTIVATION: tl.constexpr,
    SPLITS: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Join the splits of one image for BP prototypes, in ascending order, and write the results."""
    prototype, rest = take_tile(tl.program_id(0), num_prototypes, BP)
    inside = prototype < num_prototypes
    image = rest.to(tl.int64)
    best = tl.full([BP], float("inf"), tl.float32)
    second = tl.full([BP], float("inf"), tl.float32)
    index = tl.zeros([BP], tl.int32)
    first_bad = tl.full([], NO_POSITION, tl.int32)
    for split in range(SPLITS):
        work = (split * num_images + image) * num_prototypes + prototype
        split_best = tl.load(work_best + work, mask=inside, other=float("inf"))
        split_index = tl.load(work_index + work, mask=inside, other=0)
        if RECHECK:
            split_second = tl.load(work_second + work, mask=inside, other=float("inf"))
            second = tl.minimum(tl.maximum(best, split_best), tl.minimum(second, split_second))
        index = tl.where(split_best < best, split_index, index)
        best = tl.where(split_best < best, split_best, best)
        first_bad = tl.minimum(first_bad, tl.load(work_bad + split * num_images + image))
    if factors is not None:
        factors += image * num_positions
    finish_rows(
        x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
        p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x, p_square,
        factors, first, longest, value_ptr, patch_ptr, similarity_ptr, undecided_ptr,
        image, prototype, inside, best, second, index, first_bad, num_prototypes, num_positions, columns, depth,
        epsilon, product_error, sum_error, METRIC, KH, KW, RECHECK, ACTIVATION, BP,
    )  # fmt: skip


@triton.jit
def min_distance_settle_kernel(
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x, factors, first,
    value_ptr, patch_ptr, similarity_ptr, undecided_ptr,
    num_prototypes, num_positions, columns, depth, epsilon,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The first smallest difference form over the grid, for pairs of finite vectors that a search left undecided.

    One program: ROWS prototypes of one image, one after the other. Mostly there is nothing to do.
    """
    tiles = tl.cdiv(num_prototypes, ROWS)
    program = tl.program_id(0)
    image = (program // tiles).to(tl.int64)
    if factors is not None:
        factors += image * num_positions
    first_prototype = (program % tiles) * ROWS
    for prototype in range(first_prototype, tl.minimum(first_prototype + ROWS, num_prototypes)):
        out = image * num_prototypes + prototype
        if tl.load(undecided_ptr + out) != 0:
            p_offset = tl.zeros([BN], tl.int64) + wide(prototype) * p_stride_p
            best = tl.full([], float("inf"), tl.float32)
            index = first_usable(first, image, tl.zeros([], tl.int32), best)
            for n0 in range(0, num_positions, BN):
                n = n0 + tl.arange(0, BN)
                inside = n < num_positions
                x_offset = image * x_stride_b + cell_offset(n, columns, x_stride_y, x_stride_x)
                distance = row_distance(
                    x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x,
                    p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x,
                    inside, depth, METRIC, KH, KW, tl.float32, BN,
                )  # fmt: skip
                distance = weigh(distance, factors, n, inside, METRIC)
                distance = tl.where(inside & (distance == distance), distance, float("inf"))
                tile_best = tl.min(distance, 0)
                at = tl.min(tl.where(distance == tile_best, n, NO_POSITION), 0)
                index = tl.where(tile_best < best, at, index)
                best = tl.where(tile_best < best, tile_best, best)
            tl.store(value_ptr + out, best)
            tl.store(patch_ptr + out, index.to(tl.int64))
            if ACTIVATION != "none":
                tl.store(similarity_ptr + out, similarity(best, epsilon, ACTIVATION))


@triton.jit
def min_distance_direct_kernel(
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x, factors, first,
    value_ptr, patch_ptr, similarity_ptr,
    num_prototypes, num_positions, columns, depth, epsilon,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr, ACTIVATION: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The whole op by difference forms of all pairs, from tensors of any strides: BP prototypes of one image."""
    prototype, rest = take_tile(tl.program_id(0), num_prototypes, BP)
    image = rest.to(tl.int64)
    inside = prototype < num_prototypes
    ROWS: tl.constexpr = BP * BN
    # Rows are pairs of a prototype and a position, positions fastest.
    row_prototype = tl.reshape(tl.broadcast_to(prototype[:, None], [BP, BN]), [ROWS])
    p_offset = row_prototype.to(tl.int64) * p_stride_p
    p_finite = is_finite_row(
        p_ptr, prototype.to(tl.int64) * p_stride_p, p_stride_d, p_stride_y, p_stride_x, inside, depth,
        KH, KW, COMPUTE, BP,
    )  # fmt: skip
    if factors is not None:
        factors += image * num_positions
    best = tl.full([BP], float("inf"), COMPUTE)
    index = first_usable(first, image, tl.zeros([BP], tl.int32), best)
    first_bad = tl.full([], NO_POSITION, tl.int32)
    for n0 in range(0, num_positions, BN):
        n = n0 + tl.arange(0, BN)
        row_n = tl.reshape(tl.broadcast_to(n[None, :], [BP, BN]), [ROWS])
        x_finite = is_finite_row(
            x_ptr, image * x_stride_b + cell_offset(n, columns, x_stride_y, x_stride_x),
            x_stride_d, x_stride_y, x_stride_x, n < num_positions, depth, KH, KW, COMPUTE, BN,
        )  # fmt: skip
        first_bad = tl.minimum(first_bad, tl.min(tl.where(x_finite, NO_POSITION, n), 0))
        mask = (row_n < num_positions) & (row_prototype < num_prototypes)
        distance = row_distance(
            x_ptr, image * x_stride_b + cell_offset(row_n, columns, x_stride_y, x_stride_x),
            x_stride_d, x_stride_y, x_stride_x,
            p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, mask, depth, METRIC, KH, KW, COMPUTE, ROWS,
        )  # fmt: skip
        distance = weigh(distance, factors, row_n, mask, METRIC)
        distance = tl.reshape(tl.where(mask & (distance == distance), distance, float("inf")), [BP, BN])
        tile_best = tl.min(distance, 1)
        at = tl.min(tl.where(distance == tile_best[:, None], n[None, :], NO_POSITION), 1)
        index = tl.where(tile_best < best, at, index)
        best = tl.where(tile_best < best, tile_best, best)
    first_bad = first_spoilt(first, image, first_bad)
    is_bad = (first_bad < NO_POSITION) | ~p_finite
    index = tl.where(p_finite, tl.where(first_bad < NO_POSITION, first_bad, index), 0)
    best = tl.where(is_bad, float("nan"), best)
    out = image * num_prototypes + prototype
    tl.store(value_ptr + out, best, mask=inside)
    tl.store(patch_ptr + out, index.to(tl.int64), mask=inside)
    if ACTIVATION != "none":
        tl.store(similarity_ptr + out, similarity(best, epsilon, ACTIVATION), mask=inside)
