"""Launches of the Triton gradient of `min_distance`."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import compute_dtype, grid_shape, prototype_size
from ..metric import METRIC_TABLE
from ..triton_common.availability import is_interpreted
from ..triton_common.configs import Config, choose
from ..triton_common.device import cells_of, on_device
from ..triton_common.launch import launcher
from ..triton_common.limits import device_limits
from .triton_backward_kernels import grad_features_kernel, grad_prototypes_kernel, pair_values_kernel

COMPUTE = {torch.float32: tl.float32, torch.float64: tl.float64}
_launch_pair_values = launcher(pair_values_kernel)
_launch_to_prototypes = launcher(grad_prototypes_kernel)
_launch_to_features = launcher(grad_features_kernel)


class Pairs(NamedTuple):
    """What the gradient of every pair (B, P) depends on besides the vectors; the last three for unit vectors only."""

    weight: Tensor
    distance: Tensor
    x_inverse_norm: Tensor
    p_inverse_norm: Tensor

    def arguments(self) -> dict[str, Tensor]:
        """As the kernels call them."""
        return {
            "weight_ptr": self.weight,
            "distance_ptr": self.distance,
            "x_inverse_ptr": self.x_inverse_norm,
            "p_inverse_ptr": self.p_inverse_norm,
        }


def min_distance_backward(
    grad_value: Tensor,
    features: Tensor,
    prototypes: Tensor,
    patch: Tensor,
    metric: str,
    need_features: bool,
    need_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the distance at `patch` (B, P), each shaped like its input, or (0,) where it is not needed."""
    grad_features = torch.empty_like(features) if need_features else features.new_empty(0)
    grad_prototypes = torch.empty_like(prototypes) if need_prototypes else prototypes.new_empty(0)
    if grad_value.numel() == 0:
        return grad_features.zero_(), grad_prototypes.zero_()
    with on_device(features):
        patch = patch.contiguous()
        cells = cells_of(prototypes)
        pairs = _pairs(grad_value, features, cells, patch, metric)
        if need_prototypes:
            _to_prototypes(pairs, features, cells, patch, metric, grad_prototypes)
        if need_features:
            _to_features(pairs, features, cells, patch, metric, grad_features)
    return grad_features, grad_prototypes


def _pairs(grad_value: Tensor, features: Tensor, cells: Tensor, patch: Tensor, metric: str) -> Pairs:
    dtype = compute_dtype(features.dtype)
    grad = grad_value.to(dtype).contiguous()
    if not METRIC_TABLE[metric].is_unit:
        return Pairs(grad, grad, grad, grad)
    pairs = Pairs(*(torch.empty_like(grad) for _ in range(4)))
    kh, kw = prototype_size(cells)
    columns = grid_shape(features, cells)[1]
    block = 8 if dtype == torch.float64 else 16
    _launch_pair_values(
        (len(features) * triton.cdiv(len(cells), block),),
        grad_ptr=grad, patch_ptr=patch, **pairs.arguments(), x_ptr=features, p_ptr=cells,
        num_prototypes=len(cells), columns=columns, depth=features.shape[1],
        METRIC=metric, KH=kh, KW=kw, COMPUTE=COMPUTE[dtype], BP=block, num_warps=4,
    )  # fmt: skip
    return pairs


def _config(features: Tensor, cells: Tensor, *, is_heavy: bool) -> Config:
    """Tiles of the table, no larger than the problem; half the channels where a pair needs many registers."""
    depth = features.shape[1]
    num_prototypes, _, kh, kw = cells.shape
    rows, columns = grid_shape(features, cells)
    arch = device_limits(features.device).arch
    config = choose(
        "min_distance_backward", arch, features.dtype, "fp32", depth * kh * kw, rows * columns, num_prototypes
    )
    channels = config.block_d // 2 if is_heavy else config.block_d
    cell_count = features.shape[2] * features.shape[3]
    return replace(
        config,
        block_n=min(config.block_n, triton.next_power_of_2(cell_count)),
        block_d=min(channels, max(16, triton.next_power_of_2(depth))),
    )


def _to_prototypes(
    pairs: Pairs, features: Tensor, cells: Tensor, patch: Tensor, metric: str, grad_prototypes: Tensor
) -> None:
    """Write the gradient to the prototypes; splits of the images go to a workspace that is summed in their order."""
    batch, depth = features.shape[:2]
    num_prototypes, _, kh, kw = cells.shape
    dtype = pairs.weight.dtype
    config = _config(features, cells, is_heavy=dtype == torch.float64)
    programs = triton.cdiv(num_prototypes, config.block_p) * triton.cdiv(depth, config.block_d) * kh * kw
    wanted = triton.cdiv(config.waves * device_limits(features.device).multiprocessors, programs)
    # Eight images at least: the workspace stays below an eighth of what the pairs read.
    per_split = max(triton.cdiv(batch, wanted), min(batch, 8))
    splits = triton.cdiv(batch, per_split)
    is_direct = splits == 1 and not (is_interpreted() and grad_prototypes.dtype == torch.bfloat16)
    if is_direct:
        grad = cells_of(grad_prototypes)[None]
    else:
        grad = torch.empty((splits, num_prototypes, kh, kw, depth), dtype=dtype, device=features.device)
        grad = grad.permute(0, 1, 4, 2, 3)
    _launch_to_prototypes(
        (programs * splits,), **pairs.arguments(), patch_ptr=patch, x_ptr=features, p_ptr=cells, grad_ptr=grad,
        num_images=batch, num_prototypes=num_prototypes, columns=grid_shape(features, cells)[1], depth=depth,
        images_per_split=per_split, METRIC=metric, KH=kh, KW=kw, COMPUTE=COMPUTE[dtype],
        BP=config.block_p, BK=config.block_d, num_warps=config.warps,
    )  # fmt: skip
    if not is_direct:
        grad_prototypes.copy_(grad.sum(0).view(grad_prototypes.shape))


def _to_features(
    pairs: Pairs, features: Tensor, cells: Tensor, patch: Tensor, metric: str, grad_features: Tensor
) -> None:
    batch, depth, height, width = features.shape
    num_prototypes, _, kh, kw = cells.shape
    rows, columns = grid_shape(features, cells)
    sorted_patch, order = patch.sort(dim=1, stable=True)
    borders = torch.arange(rows * columns + 1, device=patch.device).expand(batch, -1)
    start = torch.searchsorted(sorted_patch, borders.contiguous())
    target = grad_features
    if is_interpreted() and grad_features.dtype == torch.bfloat16:
        target = torch.empty_like(grad_features, dtype=torch.float32)  # the interpreter truncates on a store
    # Registers: the prototypes that are in flight together, and what a pair needs besides them.
    is_heavy = kh * kw > 1 or METRIC_TABLE[metric].is_unit or pairs.weight.dtype == torch.float64
    config = _config(features, cells, is_heavy=is_heavy)
    programs = batch * triton.cdiv(height * width, config.block_n) * triton.cdiv(depth, config.block_d)
    is_dense = all(tensor.stride(2) == width * tensor.stride(3) for tensor in (features, target))
    _launch_to_features(
        (programs,), **pairs.arguments(), order_ptr=order, start_ptr=start,
        x_ptr=features, p_ptr=cells, grad_ptr=target,
        num_prototypes=num_prototypes, num_positions=rows * columns, num_cells=height * width,
        width=width, rows=rows, columns=columns, depth=depth,
        METRIC=metric, KH=kh, KW=kw, COMPUTE=COMPUTE[pairs.weight.dtype], DENSE=is_dense,
        BN=config.block_n, BK=config.block_d, AT_ONCE=2 if is_heavy else 4, num_warps=config.warps,
        # Left to itself the assembler takes 72 registers and spills.
        **({"maxnreg": 128} if kh * kw > 1 and pairs.weight.dtype == torch.float32 else {}),
    )  # fmt: skip
    if target is not grad_features:
        grad_features.copy_(target)
