"""Feature maps as rows of patch vectors and back. No metric, no argument checks.

B images, D channels, H x W cells, h x w cells per patch, N = H' * W' patches per image, K = D * h * w, P prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def prototype_size(prototypes: Tensor) -> tuple[int, int]:
    """Cells (h, w) that one prototype spans; `prototypes` is (P, D) or (P, D, h, w)."""
    return (1, 1) if prototypes.dim() == 2 else (prototypes.shape[2], prototypes.shape[3])


def grid_shape(features: Tensor, prototypes: Tensor) -> tuple[int, int]:
    """Patch positions (H', W') at stride 1 without padding."""
    height, width = prototype_size(prototypes)
    return features.shape[2] - height + 1, features.shape[3] - width + 1


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type in which distances are computed and returned: float64 for float64, otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def patch_vectors(features: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Every patch of `features` (B, D, H, W) as a contiguous row, in row-major grid order: (B, N, K) in `dtype`."""
    height, width = size
    windows = features.unfold(2, height, 1).unfold(3, width, 1)  # (B, D, H', W', h, w)
    batch, depth, rows, columns = windows.shape[:4]
    ordered = windows.permute(0, 2, 3, 1, 4, 5).to(dtype)
    return ordered.reshape(batch, rows * columns, depth * height * width).contiguous()


def sum_patch_vectors(vectors: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Adjoint of `patch_vectors`: (B, N, K) summed into the cells that each patch covers, (B, D, H, W)."""
    height, width = size
    if size == (1, 1):
        return vectors.transpose(1, 2).reshape(vectors.shape[0], vectors.shape[2], *grid)
    cells = (grid[0] + height - 1, grid[1] + width - 1)
    return functional.fold(vectors.transpose(1, 2), cells, size)
