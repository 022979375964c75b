"""Weights of patches inside the kernels: the weighted distance of a pair, and which patches of an image take part.

Factors (B, N) are the weights under cosine, and their logarithms otherwise, as `prepare_weights` makes them. Without
weights a kernel is given None instead, and compiled as if it knew of none.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .search_tile import NO_POSITION


@triton.jit
def of_weighted_image(factors, image, num_positions):
    """The factors from the first patch of `image` (int64) on."""
    if factors is not None:
        factors = factors + image * num_positions
    return factors


@triton.jit
def weigh(distance, factors, n, mask, COSINE: tl.constexpr):
    """Weighted distances (rows,) of the patches `n` (rows,) of the image whose factors are given; inf at weight 0."""
    if factors is not None:
        if COSINE:
            weight = tl.load(factors + n, mask=mask, other=1.0)
            distance = tl.where(weight > 0, (1 - weight) + weight * distance, float("inf"))
        else:
            distance = distance - tl.load(factors + n, mask=mask, other=0.0)
    return distance


@triton.jit
def first_usable(first, image, index, best):
    """`index`; of a weighted `image`, where `best` is inf and so nothing was found, its first patch with a weight."""
    if first is not None:
        index = tl.where(best < float("inf"), index, tl.load(first + image * 2))
    return index


@triton.jit
def first_spoilt(first, image, first_bad):
    """The first patch that spoils `image`: `first_bad`, or one whose weight is none, or 0 where all weights are 0."""
    if first is not None:
        first_bad = tl.minimum(first_bad, tl.load(first + image * 2 + 1))
        is_empty = (tl.load(first + image * 2) == NO_POSITION) & (first_bad == NO_POSITION)
        first_bad = tl.where(is_empty, 0, first_bad)
    return first_bad


@triton.jit
def first_patches_kernel(factors, first, num_positions, COSINE: tl.constexpr, BN: tl.constexpr):
    """Write of one image the first patch with a weight above 0, and the first whose weight is not valid."""
    image = tl.program_id(0).to(tl.int64)
    usable = tl.full([BN], NO_POSITION, tl.int32)
    bad = tl.full([BN], NO_POSITION, tl.int32)
    for n0 in range(0, num_positions, BN):
        n = n0 + tl.arange(0, BN)
        inside = n < num_positions
        factor = tl.load(factors + image * num_positions + n, mask=inside, other=0.0)
        if COSINE:
            is_weight = (factor >= 0) & (factor <= 1)
            is_used = factor > 0
        else:
            is_weight = factor <= 0
            is_used = factor > float("-inf")
        usable = tl.minimum(usable, tl.where(inside & is_used, n, NO_POSITION))
        bad = tl.minimum(bad, tl.where(inside & ~is_weight, n, NO_POSITION))
    tl.store(first + image * 2, tl.min(usable, 0))
    tl.store(first + image * 2 + 1, tl.min(bad, 0))
