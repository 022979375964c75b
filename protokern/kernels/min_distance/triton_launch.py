"""Launches of the Triton search: `min_distance` and, with the activation in its last step, `prototype_pool`.

Which kernels run: float64 and tiny problems go directly through the difference forms of all pairs, in one launch. All
others take a pass that makes operands; a search by products, with the positions split and then combined where that
leaves multiprocessors idle; and, where the precision promises the nearest patch, difference forms over the grid for the
pairs that rounding leaves undecided.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import compute_dtype, grid_shape, prototype_size
from ..metric import METRIC_TABLE
from ..similarity import activate
from ..triton_common.availability import is_interpreted
from ..triton_common.configs import MOST_FOR_STRIDED, Config, choose, num_splits, shrink
from ..triton_common.device import cells_of, on_device
from ..triton_common.launch import launcher
from ..triton_common.limits import DeviceLimits, device_limits
from ..triton_common.operands import (
    OperandKind,
    is_centred,
    is_dense,
    longest_patches,
    operand_kind,
    prepare_operands,
    prepare_prototypes,
)
from ..triton_common.weights import Weights, prepare_weights
from .triton_kernels import (
    min_distance_combine_kernel,
    min_distance_direct_kernel,
    min_distance_search_kernel,
    min_distance_settle_kernel,
)

# Differences of one component up to which a single launch of the direct kernel is taken. Not measured on a GPU yet.
TINY_WORK = 0 if is_interpreted() else 2**22
# Elements of an image's or of the prototypes' operands, or of an image as it lies, that the search kernel can address.
LARGEST_OFFSET = 2**31 - 1
PROTOTYPES_PER_SETTLING_PROGRAM = 4
# Pairs of a program of the direct kernel: 32 components of each are in registers at a time.
DIRECT_PAIRS = 2048 if is_interpreted() else 64
# Of one component, both parts of a split one.
ELEMENT_BYTES = {"split": 4, "tf32": 4, "bf16": 2, "fp16": 2, "ieee": 4}
COMPUTE = {torch.float32: tl.float32, torch.float64: tl.float64}
_launch_search = launcher(min_distance_search_kernel)
_launch_combine = launcher(min_distance_combine_kernel)
_launch_settle = launcher(min_distance_settle_kernel)
_launch_direct = launcher(min_distance_direct_kernel)


class Search(NamedTuple):
    """What a search returns; `similarity` is `value` again where no activation was asked for."""

    similarity: Tensor
    value: Tensor
    patch: Tensor


def min_distance(
    features: Tensor, prototypes: Tensor, metric: str, precision: str, patch_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Smallest distance over the grid (B, P) and the flat index of its patch (B, P) int64."""
    result = search(features, prototypes, metric, precision, "none", 0.0, patch_weight)
    return result.value, result.patch


def prototype_pool(
    features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float, precision: str,
    patch_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Similarity (B, P), smallest distance (B, P) and the flat index of its patch (B, P) int64."""
    if features.dtype == torch.float64:
        # A kernel takes epsilon as a float32, which is too coarse for float64 similarities.
        value, patch = min_distance(features, prototypes, metric, precision, patch_weight)
        return activate(value, activation, epsilon), value, patch
    found = search(features, prototypes, metric, precision, activation, epsilon, patch_weight)
    return found.similarity, found.value, found.patch


def search(
    features: Tensor, prototypes: Tensor, metric: str, precision: str, activation: str, epsilon: float,
    patch_weight: Tensor | None = None,
) -> Search:  # fmt: skip
    """Nearest patches, by weighted distances if there are weights (B, H', W'), and their similarities.

    Not the similarities where `activation` is "none".
    """
    shape = (len(features), len(prototypes))
    value = features.new_empty(shape, dtype=compute_dtype(features.dtype))
    similarity = value if activation == "none" else torch.empty_like(value)
    result = Search(similarity, value, torch.empty_like(value, dtype=torch.int64))
    if value.numel() == 0:
        return result
    depth = features.shape[1]
    rows, columns = grid_shape(features, prototypes)
    height, width = prototype_size(prototypes)
    work = value.numel() * rows * columns * depth * height * width
    padded = depth + 256
    largest = max(features.shape[2] * features.shape[3], len(prototypes) * height * width) * padded
    with on_device(features):
        weights = prepare_weights(patch_weight, features, metric)
        if value.dtype == torch.float64 or work <= TINY_WORK or largest > LARGEST_OFFSET:
            _direct(features, prototypes, weights, metric, activation, epsilon, result)
            return result
        limits = device_limits(features.device)
        name, kind = operand_kind(limits, features.dtype, precision, metric)
        config = search_config(
            limits, features.dtype, precision, metric, name, depth, height * width, rows * columns, len(prototypes)
        )
        if config.path == "strided" and image_span(features) > LARGEST_OFFSET:
            config = replace(config, path="operands")
        _by_products(
            features, prototypes, weights, metric, activation, epsilon, result, kind, config, limits,
            kind.exact or kind.split or precision == "fp32",
        )  # fmt: skip
    return result


def search_config(
    limits: DeviceLimits, dtype: torch.dtype, precision: str, metric: str, name: str, depth: int, taps: int,
    positions: int, prototypes: int,
) -> Config:  # fmt: skip
    """Tiles for a search with operands called `name`, no larger than the problem, that fit the device.

    Steps as long as a vector mean that prototypes are loaded once (`is_resident`); all other steps are short.
    """
    precision = "fp32" if name == "ieee" else precision
    config = choose("min_distance", limits.arch, dtype, precision, depth * taps, positions, prototypes)
    largest = 64 if name == "ieee" else 256
    if taps > 1 or not METRIC_TABLE[metric].is_centred or prototypes > MOST_FOR_STRIDED:
        config = replace(config, path="operands")
    channels = max(16, triton.next_power_of_2(depth))
    element = ELEMENT_BYTES[name]
    block_d = channels if is_resident(config, depth, taps) else min(config.block_d, channels, 128 // element)
    config = replace(
        config,
        block_p=min(config.block_p, largest, max(16, triton.next_power_of_2(prototypes))),
        block_n=min(config.block_n, largest, max(16, triton.next_power_of_2(positions))),
        block_d=max(16, block_d),
    )
    if METRIC_TABLE[metric].is_unit and config.block_p * config.block_n > 64 * 128:
        # With unit vectors the last step has two norms more to keep; larger tiles spill registers.
        config = replace(config, block_n=64, warps=4)
    return shrink(config, limits, lambda config: shared_bytes(config, element, is_resident(config, depth, taps)))


def image_span(features: Tensor) -> int:
    """Elements from the first to the last number of an image, as it lies in memory."""
    sizes_and_strides = zip(features.shape[1:], features.stride()[1:], strict=True)
    return 1 + sum((size - 1) * stride for size, stride in sizes_and_strides)


def is_resident(config: Config, depth: int, taps: int) -> bool:
    """Whether one step takes a whole vector, so that a program loads its prototypes once."""
    return taps == 1 and config.block_d >= depth and config.path != "strided"


def shared_bytes(config: Config, element_bytes: int, resident: bool) -> int:
    """Shared memory of the search kernel; `element_bytes` counts both parts of a split component."""
    moving = config.block_n if resident else config.block_n + config.block_p
    held = config.block_p if resident else 0
    # Reductions across warps: a number and an index for each warp and row.
    scratch = 8 * config.warps * max(config.block_p, config.block_n)
    return max(config.block_d * element_bytes * (held + moving * config.stages) + 1024, scratch)


def rounding_errors(kind: OperandKind, terms: int, is_weighted: bool = False) -> tuple[float, float]:
    """Bounds of a score's error, in units of |x| |p| and of (|x| + |p|)^2; `terms` components are summed.

    Of a split component the rounded value misses 2^-8 and the rounded rest 2^-17, on either side; the product of the
    two rests, which is left out, is 2^-16: together 2^-15, twice for a score of |x|^2 - 2 x.p. Sums: a tensor core adds
    sixteen products at a time and truncates; four units in the last place for each such step are more than it loses,
    and the norm and the last addition are worth sixteen more. A weight adds at most four roundings to a score and to
    the distance that it stands for, of numbers no larger than the distance; for them, eight more.
    """
    return (2.0**-14 if kind.split else 0.0), (terms / 4 + (24 if is_weighted else 16)) * 2.0**-24


def _by_products(
    features: Tensor, prototypes: Tensor, weights: Weights, metric: str, activation: str, epsilon: float,
    result: Search, kind: OperandKind, config: Config, limits: DeviceLimits, recheck: bool,
) -> None:  # fmt: skip
    batch, depth, height, width = features.shape
    num_prototypes = len(prototypes)
    kh, kw = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    positions = rows * columns
    # Gathers from separate channels move eight times what they use; for few prototypes that is less than a copy.
    copies = recheck or 4 * num_prototypes > height * width
    is_strided, longest = config.path == "strided", None
    if is_strided:
        p, x_high = prepare_prototypes(prototypes, kind, metric, config.block_d)
        x_low, x_square, rows_first = x_high, x_high, features
    else:
        x, p, rows_first = prepare_operands(features, prototypes, kind, metric, config.block_d, copies)
        x_high, x_low, x_square = x.high, x.low, x.square
        longest = longest_patches(x, batch, kh * kw, metric)
    prototype_tiles = triton.cdiv(num_prototypes, config.block_p)
    tiles = triton.cdiv(positions, config.block_n)
    per_split = triton.cdiv(tiles, num_splits(config, limits, batch * prototype_tiles, positions))
    splits = triton.cdiv(tiles, per_split)
    undecided = torch.empty_like(result.value, dtype=torch.int8) if recheck else result.patch
    best = result.value if splits == 1 else result.value.new_empty((splits, *result.value.shape))
    second = torch.empty_like(best) if splits > 1 and recheck else best
    index = result.patch if splits == 1 else torch.empty_like(best, dtype=torch.int32)
    bad = result.patch if splits == 1 else index.new_empty((splits, batch))
    product_error, sum_error = rounding_errors(kind, depth * kh * kw, weights.factors is not None)
    shared = {
        "x_ptr": rows_first, "p_ptr": cells_of(prototypes), "p_square": p.square,
        "factors": weights.factors, "first": weights.first, "longest": longest,
        "value_ptr": result.value, "patch_ptr": result.patch, "similarity_ptr": result.similarity,
        "undecided_ptr": undecided, "work_best": best, "work_second": second, "work_index": index, "work_bad": bad,
        "num_images": batch, "num_prototypes": num_prototypes, "num_positions": positions, "columns": columns,
        "depth": depth, "epsilon": epsilon, "product_error": product_error, "sum_error": sum_error,
        "METRIC": metric, "KH": kh, "KW": kw, "RECHECK": recheck, "ACTIVATION": activation, "SPLITS": splits,
    }  # fmt: skip
    _launch_search(
        (batch * splits * prototype_tiles,),
        x_high=x_high, x_low=x_low, x_square=x_square, p_high=p.high, p_low=p.low,
        num_cells=height * width, width=width, pitch=p.pitch, tiles_per_split=per_split,
        **shared, SPLIT=kind.split, INPUT_PRECISION=kind.input_precision,
        RESIDENT=is_resident(config, depth, kh * kw), STRIDED=is_strided,
        DENSE=is_strided and is_dense(features), CENTRE=is_strided and is_centred(kind, metric),
        DROPPED=kind.dropped_bits if is_strided else 0, BP=config.block_p, BN=config.block_n, BK=config.block_d,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    if splits > 1:
        block = min(config.block_p, 32)
        _launch_combine((batch * triton.cdiv(num_prototypes, block),), **shared, BP=block, num_warps=4)
    if recheck:
        _settle(rows_first, prototypes, weights, metric, activation, epsilon, result, undecided)


def _settle(
    features: Tensor, prototypes: Tensor, weights: Weights, metric: str, activation: str, epsilon: float,
    result: Search, undecided: Tensor,
) -> None:  # fmt: skip
    """Decide the pairs that `undecided` (B, P) int8 marks."""
    kh, kw = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    per_program = PROTOTYPES_PER_SETTLING_PROGRAM
    # The norms of both vectors take registers.
    largest = 32 if METRIC_TABLE[metric].is_unit else 64
    _launch_settle(
        (len(features) * triton.cdiv(len(prototypes), per_program),),
        x_ptr=features, p_ptr=cells_of(prototypes), factors=weights.factors, first=weights.first,
        value_ptr=result.value, patch_ptr=result.patch, similarity_ptr=result.similarity, undecided_ptr=undecided,
        num_prototypes=len(prototypes), num_positions=rows * columns, columns=columns, depth=features.shape[1],
        epsilon=epsilon, METRIC=metric, KH=kh, KW=kw, ACTIVATION=activation,
        ROWS=per_program, BN=min(largest, max(16, triton.next_power_of_2(rows * columns))), num_warps=4,
    )  # fmt: skip


def _direct(
    features: Tensor, prototypes: Tensor, weights: Weights, metric: str, activation: str, epsilon: float, result: Search
) -> None:
    kh, kw = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    pairs = DIRECT_PAIRS // 4 if result.value.dtype == torch.float64 else DIRECT_PAIRS
    block_p = min(64 if is_interpreted() else 4, triton.next_power_of_2(len(prototypes)))
    block_n = min(pairs // block_p, max(2, triton.next_power_of_2(rows * columns)))
    _launch_direct(
        (len(features) * triton.cdiv(len(prototypes), block_p),),
        x_ptr=features, p_ptr=cells_of(prototypes), factors=weights.factors, first=weights.first,
        value_ptr=result.value, patch_ptr=result.patch, similarity_ptr=result.similarity,
        num_prototypes=len(prototypes), num_positions=rows * columns, columns=columns, depth=features.shape[1],
        epsilon=epsilon, METRIC=metric, KH=kh, KW=kw, COMPUTE=COMPUTE[result.value.dtype], ACTIVATION=activation,
        BP=block_p, BN=block_n, num_warps=4,
    )  # fmt: skip
