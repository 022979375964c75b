"""The gradient of `mean_activation` in Triton: its launches, with the arguments of reference.py."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..chunking import chunk_budget, chunks
from ..distance_map.reference import distance_map_backward
from ..distance_map.triton_launch import distance_map
from ..geometry import compute_dtype, grid_shape, prototype_size
from ..metric import METRIC_TABLE
from ..similarity import slope
from ..triton_common.device import cells_of, on_device
from ..triton_common.launch import launcher
from ..triton_common.limits import DeviceLimits, device_limits
from ..triton_common.operands import full_precision, prepare_operands
from .triton_backward_kernels import mean_grad_features_kernel, mean_grad_prototypes_kernel
from .triton_launch import needs_differences


class _Tiles(NamedTuple):
    """Tiles of both gradients.

    Attributes:
        rows: of a tile, whose gradient a program computes: patches or prototypes.
        columns: of a tile, prototypes or patches.
        channels: that a program writes; it computes the distances of its tiles again for every part of this size.
        warps: of one program; more than a forward has, for a tile of distances lies beside a tile of the result.
    """

    rows: int
    columns: int
    channels: int
    warps: int


# Channels of one step of a product: the registers of more would be spilled where factors are split as they are read.
STEP = 16
# Of a thread, at most: what eight warps share.
REGISTERS = 255
# Programs per multiprocessor below which the images are split.
WAVES = 2
_launch_to_features = launcher(mean_grad_features_kernel)
_launch_to_prototypes = launcher(mean_grad_prototypes_kernel)


def mean_activation_backward(
    grad: Tensor, features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float,
    need_features: bool, need_prototypes: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients for `grad` (B, P), each shaped like its input, or (0,) where it is not needed."""
    grad_features = torch.empty_like(features) if need_features else features.new_empty(0)
    grad_prototypes = torch.empty_like(prototypes) if need_prototypes else prototypes.new_empty(0)
    if grad.numel() == 0:
        return grad_features.zero_(), grad_prototypes.zero_()
    rows, columns = grid_shape(features, prototypes)
    weight = (grad.to(compute_dtype(features.dtype)) / (rows * columns)).contiguous()
    with on_device(features):
        if needs_differences(features, prototypes):
            _from_maps(weight, features, prototypes, metric, activation, epsilon, grad_features, grad_prototypes)
        else:
            _by_products(weight, features, prototypes, metric, activation, epsilon, grad_features, grad_prototypes)
    return grad_features, grad_prototypes


def _from_maps(
    weight: Tensor, features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float,
    grad_features: Tensor, grad_prototypes: Tensor,
) -> None:  # fmt: skip
    """By the maps of a few images at a time and the gradient that all backends share."""
    rows, columns = grid_shape(features, prototypes)
    per_image = len(prototypes) * rows * columns
    total = torch.zeros_like(prototypes, dtype=weight.dtype)
    p = prototypes.to(weight.dtype)
    for images in chunks(len(features), max(1, chunk_budget(features.device) // per_image)):
        x = features[images].to(weight.dtype)
        maps = distance_map(x, p, metric)
        maps = weight[images, :, None, None] * slope(maps, activation, epsilon)
        to_x, to_p = distance_map_backward(maps, x, p, metric, grad_features.numel() > 0, True)
        if grad_features.numel() > 0:
            grad_features[images] = to_x
        total += to_p
    if grad_prototypes.numel() > 0:
        grad_prototypes.copy_(total)


def _tiles(limits: DeviceLimits, metric: str, taps: int) -> _Tiles:
    """The largest that leave no register spilled: unit vectors and the loops over the cells of a patch take some.

    64 rows, the least that a warp group multiplies, are too many: Triton 3.6 spills a hundred registers there.
    """
    is_unit, has_taps = METRIC_TABLE[metric].is_unit, taps > 1
    if (is_unit and has_taps) or (limits.arch < 90 and (is_unit or has_taps)):
        return _Tiles(rows=16, columns=16, channels=32, warps=4)
    if is_unit or has_taps:
        return _Tiles(rows=32, columns=32, channels=32, warps=8)
    return _Tiles(rows=32, columns=64, channels=64, warps=8)


def _by_products(
    weight: Tensor, features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float,
    grad_features: Tensor, grad_prototypes: Tensor,
) -> None:  # fmt: skip
    batch, depth, height, width = features.shape
    kh, kw = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    positions, num_prototypes = rows * columns, len(prototypes)
    limits = device_limits(features.device)
    kind = full_precision(limits)
    x, p, rows_first = prepare_operands(features, prototypes, kind, metric, STEP)
    tile = _tiles(limits, metric, kh * kw)
    channels = min(tile.channels, max(16, triton.next_power_of_2(depth)))
    shared = {
        "x_vectors": x.high, "x_square": x.square, "p_vectors": p.high, "p_square": p.square,
        "x_ptr": rows_first, "p_ptr": cells_of(prototypes), "grad_ptr": weight,
        "num_prototypes": num_prototypes, "num_positions": positions, "num_cells": height * width,
        "width": width, "columns": columns, "depth": depth, "pitch": x.pitch, "epsilon": epsilon,
        "METRIC": metric, "KH": kh, "KW": kw, "INPUT_PRECISION": kind.input_precision,
        "ACTIVATION": activation, "BK": STEP, "DB": channels,
        # The assembler would rather spill than let one program fewer run at a time.
        "num_warps": tile.warps, "num_stages": 1, "maxnreg": REGISTERS,
    }  # fmt: skip
    channel_tiles = triton.cdiv(depth, channels)
    if grad_features.numel() > 0:
        programs = batch * triton.cdiv(height * width, tile.rows) * channel_tiles
        _launch_to_features((programs,), out_ptr=grad_features, BN=tile.rows, BP=tile.columns, **shared)
    if grad_prototypes.numel() > 0:
        programs = triton.cdiv(num_prototypes, tile.rows) * kh * kw * channel_tiles
        per_split = triton.cdiv(batch, min(batch, triton.cdiv(WAVES * limits.multiprocessors, programs)))
        splits = triton.cdiv(batch, per_split)
        work = torch.empty((splits, num_prototypes, kh * kw, depth), dtype=torch.float32, device=features.device)
        _launch_to_prototypes(
            (programs * splits,),
            work=work, num_images=batch, per_split=per_split, BP=tile.rows, BN=tile.columns, **shared,
        )  # fmt: skip
        total = work.sum(0).transpose(1, 2)  # (P, D, T)
        grad_prototypes.copy_(total.reshape(prototypes.shape))
