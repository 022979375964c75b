"""`distance_map` in Triton: the launch of its kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import compute_dtype, grid_shape, prototype_size
from ..metric import METRIC_TABLE
from ..triton_common.device import cells_of, on_device
from ..triton_common.launch import launcher
from .triton_kernels import distance_map_kernel

# Patches and prototypes of a tile, by type and `is_unit`: 32 partial sums of each pair of them take half of the
# registers of 4 warps. Unit vectors need registers too.
TILES = {
    (torch.float32, False): (32, 8),
    (torch.float32, True): (32, 4),
    (torch.float64, False): (32, 4),
    (torch.float64, True): (16, 1),
}
_launch = launcher(distance_map_kernel)


def distance_map(features: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    """Distance of every patch, (B, P, H', W')."""
    dtype = compute_dtype(features.dtype)
    rows, columns = grid_shape(features, prototypes)
    result = torch.empty((len(features), len(prototypes), rows, columns), dtype=dtype, device=features.device)
    if result.numel() == 0:
        return result
    cells = cells_of(prototypes)
    height, width = prototype_size(prototypes)
    patches, some = TILES[dtype, METRIC_TABLE[metric].is_unit]
    grid = (len(features) * triton.cdiv(len(prototypes), some) * triton.cdiv(rows * columns, patches),)
    with on_device(features):
        _launch(
            grid, x_ptr=features, p_ptr=cells, result_ptr=result,
            num_prototypes=len(prototypes), num_positions=rows * columns, columns=columns, depth=features.shape[1],
            METRIC=metric, KH=height, KW=width, COMPUTE=tl.float64 if dtype == torch.float64 else tl.float32,
            BN=patches, BP=some, num_warps=4,
        )  # fmt: skip
    return result
