"""`mean_activation` in Triton: the launches of its forward; triton_backward.py has the others."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import compute_dtype, grid_shape, prototype_size
from ..metric import METRIC_TABLE
from ..triton_common.configs import Config, choose, num_splits, shrink
from ..triton_common.device import cells_of, on_device
from ..triton_common.launch import launcher
from ..triton_common.limits import DeviceLimits, device_limits
from ..triton_common.operands import OperandKind, operand_kind, prepare_operands
from .triton_kernels import mean_activation_direct_kernel, mean_activation_kernel

# Elements of an image's or of the prototypes' operands that a kernel can address.
LARGEST_OFFSET = 2**31 - 1
_launch = launcher(mean_activation_kernel)
_launch_direct = launcher(mean_activation_direct_kernel)


def mean_activation(
    features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float, precision: str
) -> Tensor:
    """Mean over the grid of the activation of the distance, (B, P)."""
    shape = (len(features), len(prototypes))
    if 0 in shape:
        return torch.empty(shape, dtype=compute_dtype(features.dtype), device=features.device)
    rows, columns = grid_shape(features, prototypes)
    with on_device(features):
        if needs_differences(features, prototypes):
            total = _direct(features, prototypes, metric, activation, epsilon)
        else:
            total = _by_products(features, prototypes, metric, activation, epsilon, precision)
    return total / (rows * columns)


def needs_differences(features: Tensor, prototypes: Tensor) -> bool:
    """Whether no products are used: for float64, and for sizes that their kernels cannot address."""
    height, width = prototype_size(prototypes)
    cells = max(features.shape[2] * features.shape[3], len(prototypes) * height * width)
    return features.dtype == torch.float64 or cells * (features.shape[1] + 256) > LARGEST_OFFSET


def tiles(
    limits: DeviceLimits,
    kind: OperandKind,
    dtype: torch.dtype,
    precision: str,
    depth: int,
    positions: int,
    prototypes: int,
) -> Config:
    """Tiles that the device has room for and that are not much larger than the problem; `depth` is D h w."""
    tuned = choose(
        "mean_activation", limits.arch, dtype, precision if limits.arch >= 80 else "fp32", depth, positions, prototypes
    )
    element = kind.dtype.itemsize * (2 if kind.split else 1)

    def shared_bytes(config: Config) -> int:
        return element * config.stages * config.block_d * (config.block_p + config.block_n)

    return shrink(tuned.cut(prototypes, positions), limits, shared_bytes)


def _by_products(
    features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float, precision: str
) -> Tensor:
    batch, depth, height, width = features.shape
    kh, kw = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    positions, num_prototypes = rows * columns, len(prototypes)
    limits = device_limits(features.device)
    _, kind = operand_kind(limits, features.dtype, precision, metric)
    config = tiles(limits, kind, features.dtype, precision, depth * kh * kw, positions, num_prototypes)
    x, p, rows_first = prepare_operands(features, prototypes, kind, metric, config.block_d)
    p_tiles = triton.cdiv(num_prototypes, config.block_p)
    position_tiles = triton.cdiv(positions, config.block_n)
    per_split = triton.cdiv(position_tiles, num_splits(config, limits, batch * p_tiles, positions))
    splits = triton.cdiv(position_tiles, per_split)
    work = torch.empty((splits, batch, num_prototypes), dtype=torch.float32, device=features.device)
    _launch(
        (batch * splits * p_tiles,),
        x_high=x.high, x_low=x.low, x_square=x.square, p_high=p.high, p_low=p.low, p_square=p.square,
        x_ptr=rows_first, p_ptr=cells_of(prototypes), work=work,
        num_images=batch, num_prototypes=num_prototypes, num_positions=positions, num_cells=height * width,
        width=width, columns=columns, depth=depth, pitch=x.pitch, num_splits=splits, tiles_per_split=per_split,
        epsilon=epsilon, METRIC=metric, KH=kh, KW=kw, SPLIT=kind.split, INPUT_PRECISION=kind.input_precision,
        ACTIVATION=activation, BP=config.block_p, BN=config.block_n, BK=config.block_d,
        num_warps=config.warps, num_stages=config.stages, **_registers(metric, kind),
    )  # fmt: skip
    return work.sum(0)


def _registers(metric: str, kind: OperandKind) -> dict[str, int]:
    """For the assembler, which would rather spill a few registers than use more than 128.

    Unit vectors need some, and factors of four bytes.
    """
    if METRIC_TABLE[metric].is_unit:
        return {"maxnreg": 192}
    return {"maxnreg": 160} if kind.input_precision == "tf32" else {}


def _direct(features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float) -> Tensor:
    kh, kw = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    dtype = compute_dtype(features.dtype)
    total = torch.empty((len(features), len(prototypes)), dtype=dtype, device=features.device)
    # As a tensor: Triton rounds numbers to float32.
    constant = torch.full((1,), epsilon, dtype=dtype, device=features.device)
    _launch_direct(
        (total.numel(),), x_ptr=features, p_ptr=cells_of(prototypes), result_ptr=total, epsilon_ptr=constant,
        num_prototypes=len(prototypes), num_positions=rows * columns, columns=columns, depth=features.shape[1],
        METRIC=metric, KH=kh, KW=kw, COMPUTE=tl.float64 if dtype == torch.float64 else tl.float32,
        ACTIVATION=activation, BN=min(32, max(16, triton.next_power_of_2(rows * columns))), num_warps=4,
    )  # fmt: skip
    return total
