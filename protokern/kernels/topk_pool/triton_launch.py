"""`topk_distance` in Triton: its launches.

A pass makes operands, a search by products keeps a list of the best scores for every prototype, a last pass joins the
lists and turns scores into distances. Pairs that rounding leaves in doubt are searched by difference forms. float64 is
searched so altogether.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import compute_dtype, grid_shape, prototype_size
from ..min_distance.triton_launch import rounding_errors
from ..triton_common.configs import Config, choose, num_splits, shrink
from ..triton_common.device import cells_of, on_device
from ..triton_common.launch import launcher
from ..triton_common.limits import DeviceLimits, device_limits
from ..triton_common.operands import OperandKind, longest_patches, operand_kind, prepare_operands
from ..triton_common.weights import Weights, prepare_weights
from .triton_kernels import topk_exhaustive_kernel, topk_finish_kernel, topk_search_kernel

# Elements of an image's or of the prototypes' operands that the search kernel can address.
LARGEST_OFFSET = 2**31 - 1
# Prototypes of a program that looks for pairs in doubt, few of which there are.
PROTOTYPES_PER_PROGRAM = 16
_launch_search = launcher(topk_search_kernel)
_launch_finish = launcher(topk_finish_kernel)
_launch_exhaustive = launcher(topk_exhaustive_kernel)


class _Result(NamedTuple):
    value: Tensor
    patch: Tensor


def topk_distance(
    features: Tensor, prototypes: Tensor, k: int, metric: str, precision: str, patch_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k smallest distances over the grid, ascending, (B, P, k), and their patches (B, P, k) int64.

    Where fewer than k patches have a weight, the rest are inf at the patch of the nearest.
    """
    dtype = compute_dtype(features.dtype)
    value = torch.empty((len(features), len(prototypes), k), dtype=dtype, device=features.device)
    result = _Result(value, torch.empty_like(value, dtype=torch.int64))
    if value.numel() == 0:
        return result
    height, width = prototype_size(prototypes)
    cells = max(features.shape[2] * features.shape[3], len(prototypes) * height * width)
    with on_device(features):
        weights = prepare_weights(patch_weight, features, metric)
        if dtype == torch.float64 or cells * (features.shape[1] + 256) > LARGEST_OFFSET:
            _exhaustive(features, prototypes, weights, metric, result, None)
        else:
            _by_products(features, prototypes, weights, metric, precision, result)
    return result


def _config(
    limits: DeviceLimits, kind: OperandKind, dtype: torch.dtype, precision: str, depth: int, shape: tuple[int, int]
) -> Config:
    """Tiles that the device has room for, not much larger than the grid and the prototypes, `shape`."""
    tuned = choose("topk_distance", limits.arch, dtype, precision if limits.arch >= 80 else "fp32", depth, *shape)
    element = kind.dtype.itemsize * (2 if kind.split else 1)

    def shared_bytes(config: Config) -> int:
        return element * config.stages * config.block_d * (config.block_p + config.block_n)

    return shrink(tuned.cut(shape[1], shape[0]), limits, shared_bytes)


def _by_products(
    features: Tensor, prototypes: Tensor, weights: Weights, metric: str, precision: str, result: _Result
) -> None:
    batch, depth, height, width = features.shape
    num_prototypes, k = result.value.shape[1:]
    kh, kw = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    positions = rows * columns
    limits = device_limits(features.device)
    _, kind = operand_kind(limits, features.dtype, precision, metric)
    config = _config(limits, kind, features.dtype, precision, depth * kh * kw, (positions, num_prototypes))
    x, p, rows_first = prepare_operands(features, prototypes, kind, metric, config.block_d)
    recheck = kind.exact or kind.split or precision == "fp32"
    length = k + 1 if recheck else k
    slots = triton.next_power_of_2(length)
    tiles = triton.cdiv(num_prototypes, config.block_p)
    per_split = triton.cdiv(
        triton.cdiv(positions, config.block_n), num_splits(config, limits, batch * tiles, positions)
    )
    splits = triton.cdiv(triton.cdiv(positions, config.block_n), per_split)
    device = features.device
    work_value = torch.empty((splits, batch, num_prototypes, slots), dtype=torch.float32, device=device)
    undecided = torch.empty((batch, num_prototypes), dtype=torch.int8, device=device)
    product_error, sum_error = rounding_errors(kind, depth * kh * kw, weights.factors is not None)
    shared = {
        "work_value": work_value, "work_index": torch.empty_like(work_value, dtype=torch.int32),
        "work_bad": torch.empty((splits, batch), dtype=torch.int32, device=device), "factors": weights.factors,
        "num_images": batch, "num_prototypes": num_prototypes, "num_positions": positions, "columns": columns,
        "num_splits": splits, "METRIC": metric, "KH": kh, "KW": kw, "RECHECK": recheck, "LIST": length, "SLOTS": slots,
    }  # fmt: skip
    _launch_search(
        (batch * splits * tiles,),
        x_high=x.high, x_low=x.low, x_square=x.square, p_high=p.high, p_low=p.low,
        num_cells=height * width, width=width, pitch=x.pitch, tiles_per_split=per_split,
        **shared, SPLIT=kind.split, INPUT_PRECISION=kind.input_precision,
        BP=config.block_p, BN=config.block_n, BK=config.block_d,
        # Left to itself the assembler would rather spill than use more than 168 registers.
        num_warps=config.warps, num_stages=config.stages, maxnreg=192,
    )  # fmt: skip
    _launch_finish(
        (batch * triton.cdiv(num_prototypes, 16),),
        x_ptr=rows_first, p_ptr=cells_of(prototypes), first=weights.first, p_square=p.square,
        longest=longest_patches(x, batch, kh * kw, metric),
        value_ptr=result.value, patch_ptr=result.patch, undecided_ptr=undecided,
        depth=depth, product_error=product_error, sum_error=sum_error,
        # Left to itself the assembler takes 48 registers and spills.
        **shared, K=k, BP=16, num_warps=4, maxnreg=128,
    )  # fmt: skip
    _exhaustive(rows_first, prototypes, weights, metric, result, undecided)


def _exhaustive(
    features: Tensor, prototypes: Tensor, weights: Weights, metric: str, result: _Result, undecided: Tensor | None
) -> None:
    """Search all pairs, or those that `undecided` (B, P) int8 marks, by difference forms over the whole grid."""
    kh, kw = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    k = result.value.shape[2]
    dtype = result.value.dtype
    per_program = 1 if undecided is None else PROTOTYPES_PER_PROGRAM
    _launch_exhaustive(
        (len(features) * triton.cdiv(len(prototypes), per_program),),
        x_ptr=features, p_ptr=cells_of(prototypes), factors=weights.factors, first=weights.first,
        value_ptr=result.value, patch_ptr=result.patch,
        undecided_ptr=result.patch if undecided is None else undecided,
        num_prototypes=len(prototypes), num_positions=rows * columns, columns=columns, depth=features.shape[1],
        METRIC=metric, KH=kh, KW=kw, COMPUTE=tl.float64 if dtype == torch.float64 else tl.float32,
        FLAGGED=undecided is not None, K=k, SLOTS=triton.next_power_of_2(k),
        BN=min(64, max(16, triton.next_power_of_2(rows * columns))), ROWS=per_program, num_warps=4, maxnreg=192,
    )  # fmt: skip
