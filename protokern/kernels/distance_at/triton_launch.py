"""`distance_at` in Triton: the launch of its kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import compute_dtype, grid_shape, prototype_size
from ..triton_common.device import cells_of, on_device
from ..triton_common.launch import launcher
from .triton_kernels import distance_at_kernel

# Entries of a program.
ROWS = {torch.float32: 32, torch.float64: 8}
_launch = launcher(distance_at_kernel)


def distance_at(features: Tensor, prototypes: Tensor, patch: Tensor, metric: str) -> Tensor:
    """Distance at the given patches (B, P) or (B, P, m), of their shape."""
    dtype = compute_dtype(features.dtype)
    value = torch.empty(patch.shape, dtype=dtype, device=features.device)
    if value.numel() == 0:
        return value
    cells = cells_of(prototypes)
    height, width = prototype_size(prototypes)
    patch = patch if patch.dim() == 3 else patch[..., None]
    num_entries, per_pair = len(prototypes) * patch.shape[2], patch.shape[2]
    grid = (len(features) * triton.cdiv(num_entries, ROWS[dtype]),)
    with on_device(features):
        _launch(
            grid, x_ptr=features, p_ptr=cells, patch_ptr=patch, value_ptr=value, num_entries=num_entries,
            per_pair=per_pair, columns=grid_shape(features, prototypes)[1], depth=features.shape[1],
            METRIC=metric, KH=height, KW=width,
            COMPUTE=tl.float64 if dtype == torch.float64 else tl.float32, ROWS=ROWS[dtype], num_warps=4,
        )  # fmt: skip
    return value
