"""Weights of patches inside the kernels: the weighted distance of a pair, and which patches of an image take part.

Factors (B, N) are what `prepare_weights` makes of the weights, the way their metric wants them. Without weights a
kernel is given None instead, and compiled as if it knew of none. A kernel moves `factors` to its image in place, since
Triton 3.6 lets neither a function return None nor another name have it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..metric_in_triton import triton_weigh
from .search_tile import NO_POSITION, weight_of

weighed = triton_weigh()


@triton.jit
def weigh(distance, factors, n, mask, METRIC: tl.constexpr):
    """Weighted distances (rows,) of the patches `n` (rows,) of the image whose factors are given; inf at weight 0."""
    if factors is not None:
        distance = weighed(distance, factors + n, mask, METRIC)
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
def first_patches_kernel(factors, first, num_positions, METRIC: tl.constexpr, BN: tl.constexpr):
    """Write of one image the first patch with a weight above 0, and the first whose weight is not valid."""
    image = tl.program_id(0).to(tl.int64)
    usable = tl.full([BN], NO_POSITION, tl.int32)
    bad = tl.full([BN], NO_POSITION, tl.int32)
    for n0 in range(0, num_positions, BN):
        n = n0 + tl.arange(0, BN)
        inside = n < num_positions
        factor = tl.load(factors + image * num_positions + n, mask=inside, other=0.0)
        is_weight, is_used = weight_of(factor, METRIC)
        usable = tl.minimum(usable, tl.where(inside & is_used, n, NO_POSITION))
        bad = tl.minimum(bad, tl.where(inside & ~is_weight, n, NO_POSITION))
    tl.store(first + image * 2, tl.min(usable, 0))
    tl.store(first + image * 2 + 1, tl.min(bad, 0))
