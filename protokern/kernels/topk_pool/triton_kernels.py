"""The Triton kernels of `topk_distance`. No launches: those are in triton_launch.py.

Letters as in min_distance/triton_kernels.py. A list holds the nearest patches of a prototype so far, unordered, in the
first LIST of SLOTS columns: K of them, and one more where a search has to tell whether rounding decided it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_common.difference import is_finite_row, row_distance
from ..triton_common.indexing import cell_offset, first_cell, take_split, take_tile
from ..triton_common.search_tile import (
    NO_POSITION,
    is_apart,
    of_image,
    pair_products,
    prototype_square,
    tile_scores,
)
from ..triton_common.weight_kernels import first_spoilt, weigh


@triton.jit
def empty_list(ROWS: tl.constexpr, LIST: tl.constexpr, SLOTS: tl.constexpr, TYPE: tl.constexpr):
    """Scores (ROWS, SLOTS) and patches of an empty list; unused slots hold -inf, which nothing replaces."""
    slot = tl.arange(0, SLOTS)
    value = tl.where(slot < LIST, float("inf"), float("-inf")).to(TYPE)
    patch = tl.where(slot < LIST, NO_POSITION, -1)
    return tl.broadcast_to(value[None, :], [ROWS, SLOTS]), tl.broadcast_to(patch[None, :], [ROWS, SLOTS])


@triton.jit
def first_smallest(scores, patch):
    """Smallest of each row (ROWS,), and the lowest of the patches that have it; scores are not NaN."""
    smallest = tl.min(scores, 1)
    return smallest, tl.min(tl.where(scores == smallest[:, None], patch, NO_POSITION), 1)


@triton.jit
def insert(value, index, scores, patch, SLOTS: tl.constexpr):
    """The list (ROWS, SLOTS) with what belongs there of the `scores` (ROWS, columns) of `patch`; NaN never does.

    Patches come in ascending order over the calls, so that of equal scores the lower patch is in the list already.
    """
    slot = tl.arange(0, SLOTS)
    best, at = first_smallest(scores, patch)
    worst = tl.max(value, 1)
    while tl.max((best < worst).to(tl.int32), 0) > 0:
        # Of the slots with the worst score, the one with the highest patch goes; of those, empty ones, the first.
        worst_patch = tl.max(tl.where(value == worst[:, None], index, -1), 1)
        goes = (value == worst[:, None]) & (index == worst_patch[:, None])
        column = tl.min(tl.where(goes, slot[None, :], SLOTS), 1)
        replaced = (slot[None, :] == column[:, None]) & (best < worst)[:, None]
        value = tl.where(replaced, best[:, None], value)
        index = tl.where(replaced, at[:, None], index)
        scores = tl.where(patch == at[:, None], float("inf"), scores)
        best, at = first_smallest(scores, patch)
        worst = tl.max(value, 1)
    return value, index


@triton.jit
def store_sorted(
    value_ptr, patch_ptr, out, inside, distance, index, K: tl.constexpr, FEWER: tl.constexpr, ROWS: tl.constexpr
):
    """Write the K smallest of `distance` (ROWS, SLOTS) in ascending order, the lower patch first on a tie.

    NaN, which an infinite distance less an infinite one makes, counts as infinite. With FEWER, what the list lacks is
    infinite, at the patch of the first.
    """
    left = index < NO_POSITION
    nearest = tl.full([ROWS], NO_POSITION, tl.int32)
    for rank in range(K):
        open_value = tl.where(left, distance, float("inf"))
        smallest = tl.min(open_value, 1)
        at = tl.min(tl.where(left & (open_value == smallest[:, None]), index, NO_POSITION), 1)
        if FEWER:
            nearest = tl.where(rank == 0, at, nearest)
            at = tl.where(at < NO_POSITION, at, nearest)
        tl.store(value_ptr + out * K + rank, smallest, mask=inside)
        tl.store(patch_ptr + out * K + rank, at.to(tl.int64), mask=inside)
        left &= index != at[:, None]


@triton.jit
def topk_search_kernel(
    x_high, x_low, x_square, p_high, p_low, factors, work_value, work_index, work_bad,
    num_images, num_prototypes, num_positions, num_cells, width, columns, pitch, num_splits, tiles_per_split,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SPLIT: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    RECHECK: tl.constexpr, LIST: tl.constexpr, SLOTS: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program: the lists of BP prototypes over one split of the positions of one image."""
    TAPS: tl.constexpr = KH * KW
    prototype, split, image, begin, end = take_split(num_prototypes, num_positions, num_splits, tiles_per_split, BP, BN)
    prototype_row = tl.minimum(prototype, num_prototypes - 1) * TAPS
    x_high, x_low, x_square = of_image(x_high, x_low, x_square, image, num_cells, pitch)
    if factors is not None:
        factors += image * num_positions
    value, index = empty_list(BP, LIST, SLOTS, tl.float32)
    bad = tl.full([BN], NO_POSITION, tl.int32)
    for n0 in range(begin, end, BN):
        n = n0 + tl.arange(0, BN)
        cell = first_cell(tl.minimum(n, num_positions - 1), columns, width, TAPS)
        products = pair_products(
            p_high, p_low, prototype_row, x_high, x_low, cell, pitch, width,
            KW, TAPS, SPLIT, INPUT_PRECISION, False, BP, BN, BK,
        )  # fmt: skip
        scores, bad = tile_scores(products, bad, x_square, factors, cell, n, end, width, KW, TAPS, METRIC, RECHECK)
        patch = tl.broadcast_to(tl.where(n < end, n, NO_POSITION)[None, :], [BP, BN])
        value, index = insert(value, index, scores, patch, SLOTS)
    row = (split * num_images + image) * num_prototypes + prototype
    work = row[:, None] * SLOTS + tl.arange(0, SLOTS)[None, :]
    inside = (prototype < num_prototypes)[:, None]
    tl.store(work_value + work, value, mask=inside)
    tl.store(work_index + work, index, mask=inside)
    tl.store(work_bad + split * num_images + image, tl.min(bad, 0))


@triton.jit
def take_last_out(value, index, SLOTS: tl.constexpr):
    """Largest score (BP,) of lists (BP, SLOTS), and the lists without it: of equal ones the last patch goes."""
    slot = tl.arange(0, SLOTS)
    largest = tl.max(value, 1)
    last = tl.max(tl.where(value == largest[:, None], index, -1), 1)
    goes = (value == largest[:, None]) & (index == last[:, None])
    column = tl.min(tl.where(goes, slot[None, :], SLOTS), 1)
    value = tl.where(slot[None, :] == column[:, None], float("-inf"), value)
    index = tl.where(slot[None, :] == column[:, None], -1, index)
    return largest, value, index


@triton.jit
def list_distances(
    index, inside, factors, x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, columns, depth,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, LIST: tl.constexpr, SLOTS: tl.constexpr,
    BP: tl.constexpr,
):  # fmt: skip
    """Distances (BP, SLOTS) at the patches `index` (BP, SLOTS) of an image; inf where there is no patch."""
    slot = tl.arange(0, SLOTS)
    distance = tl.full([BP, SLOTS], float("inf"), tl.float32)
    for column in range(LIST):
        at = tl.max(tl.where(slot[None, :] == column, index, -1), 1)
        is_patch = inside & (at >= 0) & (at < NO_POSITION)
        exact = row_distance(
            x_ptr, x_offset + cell_offset(tl.where(is_patch, at, 0), columns, x_stride_y, x_stride_x),
            x_stride_d, x_stride_y, x_stride_x, p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x,
            is_patch, depth, METRIC, KH, KW, tl.float32, BP,
        )  # fmt: skip
        exact = weigh(exact, factors, at, is_patch, METRIC)
        distance = tl.where((slot[None, :] == column) & is_patch[:, None], exact[:, None], distance)
    # An infinite distance less an infinite one: infinite.
    return tl.where(distance == distance, distance, float("inf"))


@triton.jit
def topk_finish_kernel(
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x, factors, first, longest, p_square,
    value_ptr, patch_ptr, undecided_ptr, work_value, work_index, work_bad,
    num_images, num_prototypes, num_positions, columns, depth, num_splits, product_error, sum_error,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, RECHECK: tl.constexpr,
    K: tl.constexpr, LIST: tl.constexpr, SLOTS: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Join the lists of the splits of one image, and write distances, patches and what rounding left in doubt."""
    prototype, rest = take_tile(tl.program_id(0), num_prototypes, BP)
    image = rest.to(tl.int64)
    inside = prototype < num_prototypes
    slot = tl.arange(0, SLOTS)
    value, index = empty_list(BP, LIST, SLOTS, tl.float32)
    first_bad = tl.full([BP], NO_POSITION, tl.int32)
    for split in range(num_splits):
        row = (split * num_images + image) * num_prototypes + prototype
        work = row[:, None] * SLOTS + slot[None, :]
        used = inside[:, None] & (slot < LIST)[None, :]
        some = tl.load(work_value + work, mask=used, other=float("inf"))
        patch = tl.load(work_index + work, mask=used, other=NO_POSITION)
        value, index = insert(value, index, some, patch, SLOTS)
        first_bad = tl.minimum(first_bad, tl.load(work_bad + split * num_images + image))
    first_bad = first_spoilt(first, image, first_bad)
    best_left_out = tl.full([BP], float("inf"), tl.float32)
    if RECHECK:
        best_left_out, value, index = take_last_out(value, index, SLOTS)
    worst_kept = tl.max(value, 1)
    unusable = tl.max((tl.where(index >= 0, value, 0.0) == float("-inf")).to(tl.int32), 1) > 0
    clamped = tl.where(inside, prototype, 0).to(tl.int64)
    if factors is not None:
        factors += image * num_positions
    distance = list_distances(
        index, inside, factors,
        x_ptr, image * x_stride_b, x_stride_d, x_stride_y, x_stride_x,
        p_ptr, clamped * p_stride_p, p_stride_d, p_stride_y, p_stride_x, columns, depth,
        METRIC, KH, KW, LIST, SLOTS, BP,
    )  # fmt: skip
    index = tl.where(index >= 0, index, NO_POSITION)
    square = prototype_square(p_square, clamped * (KH * KW), KH * KW)
    p_bad = square != square
    image_bad = first_bad < NO_POSITION
    out = image * num_prototypes + prototype
    # A list with a hole, where overflow made scores infinite, is never the answer.
    is_settled = (tl.sum((index < NO_POSITION).to(tl.int32), 1) == K) & ~unusable
    if RECHECK:
        farthest = tl.max(tl.where(index < NO_POSITION, distance, 0.0), 1)
        if longest is not None:
            longest += image
        is_settled &= is_apart(worst_kept, best_left_out, square, farthest, longest, product_error, sum_error, METRIC)
    decided = is_settled | image_bad | p_bad
    tl.store(undecided_ptr + out, tl.where(decided, 0, 1).to(tl.int8), mask=inside)
    is_spoilt = inside & (p_bad | image_bad)
    store_sorted(value_ptr, patch_ptr, out, inside & ~is_spoilt, distance, index, K, False, BP)
    spoilt = tl.where(p_bad, 0, first_bad).to(tl.int64)
    for rank in range(K):
        tl.store(value_ptr + out * K + rank, tl.full([BP], float("nan"), tl.float32), mask=is_spoilt)
        tl.store(patch_ptr + out * K + rank, spoilt, mask=is_spoilt)


@triton.jit
def topk_exhaustive_kernel(
    x_ptr, x_stride_b, x_stride_d, x_stride_y, x_stride_x,
    p_ptr, p_stride_p, p_stride_d, p_stride_y, p_stride_x, factors, first,
    value_ptr, patch_ptr, undecided_ptr, num_prototypes, num_positions, columns, depth,
    METRIC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, COMPUTE: tl.constexpr, FLAGGED: tl.constexpr,
    K: tl.constexpr, SLOTS: tl.constexpr, BN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The K smallest difference forms over the whole grid, for ROWS prototypes of one image, one after the other.

    With FLAGGED only for pairs that a search left undecided, whose vectors are finite. Without, for all.
    """
    tiles = tl.cdiv(num_prototypes, ROWS)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    if factors is not None:
        factors += image * num_positions
    first_prototype = (tl.program_id(0) % tiles) * ROWS
    slot, one = tl.arange(0, SLOTS), tl.arange(0, 1)
    largest = 3.4028234663852886e38 if tl.float32 == COMPUTE else 1.7e308
    for prototype in range(first_prototype, tl.minimum(first_prototype + ROWS, num_prototypes)):
        out = image * num_prototypes + prototype
        wanted = True
        if FLAGGED:
            wanted = tl.load(undecided_ptr + out) != 0
        if wanted:
            p_offset = (tl.zeros([BN], tl.int64) + prototype) * p_stride_p
            value, index = empty_list(1, K, SLOTS, COMPUTE)
            first_bad = tl.full([], NO_POSITION, tl.int32)
            for n0 in range(0, num_positions, BN):
                n = n0 + tl.arange(0, BN)
                inside = n < num_positions
                x_offset = image * x_stride_b + cell_offset(n, columns, x_stride_y, x_stride_x)
                distance = row_distance(
                    x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x,
                    p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x,
                    inside, depth, METRIC, KH, KW, COMPUTE, BN,
                )  # fmt: skip
                if not FLAGGED:
                    x_finite = is_finite_row(
                        x_ptr, x_offset, x_stride_d, x_stride_y, x_stride_x, inside, depth, KH, KW, COMPUTE, BN
                    )
                    first_bad = tl.minimum(first_bad, tl.min(tl.where(x_finite, NO_POSITION, n), 0))
                # An infinite distance comes behind all others, but before an empty slot.
                distance = tl.where(distance < largest, distance, largest).to(COMPUTE)
                distance = tl.where(inside, weigh(distance, factors, n, inside, METRIC), float("inf"))
                patch = tl.where(inside, n, NO_POSITION)
                value, index = insert(value, index, distance[None, :], patch[None, :], SLOTS)
            value, index = tl.where(value >= largest, float("inf"), value), tl.where(index >= 0, index, NO_POSITION)
            store_sorted(value_ptr, patch_ptr, out + one, one < 1, value, index, K, factors is not None, 1)
            if not FLAGGED:
                p_finite = is_finite_row(
                    p_ptr, p_offset, p_stride_d, p_stride_y, p_stride_x, tl.arange(0, BN) < 1, depth,
                    KH, KW, COMPUTE, BN,
                )  # fmt: skip
                # A prototype that is not finite takes patch 0. One number, since the interpreter takes no scalar masks.
                first_bad = first_spoilt(first, image, first_bad)
                first_bad = tl.minimum(first_bad, tl.where(tl.min(p_finite.to(tl.int32), 0) == 0, 0, NO_POSITION))
                spoiling = tl.zeros([SLOTS], tl.int32) + first_bad
                spoilt = (slot < K) & (spoiling < NO_POSITION)
                tl.store(value_ptr + out * K + slot, tl.full([SLOTS], float("nan"), COMPUTE), mask=spoilt)
                tl.store(patch_ptr + out * K + slot, spoiling.to(tl.int64), mask=spoilt)
