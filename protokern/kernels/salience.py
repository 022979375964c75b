"""How much the patches of a map stand out: the length of a patch's vector as a share of the largest in the image."""

from __future__ import annotations

import torch
from torch import Tensor

from protokern.kernels.geometry import compute_dtype


def lengths_of(maps: Tensor) -> Tensor:
    """Euclidean lengths (B, 1, H, W) of the vectors of maps (B, C, H, W), float32 for half maps."""
    return torch.linalg.vector_norm(maps.to(compute_dtype(maps.dtype)), dim=1, keepdim=True)


def share_of_largest(lengths: Tensor) -> Tensor:
    """Lengths (B, 1, H, W), at least 0, as shares of the largest of each image; all 1 where all are 0.

    A patch that is NaN affects only itself.
    """
    largest = torch.where(lengths.isnan(), 0, lengths).amax((2, 3), keepdim=True)  # (B, 1, 1, 1)
    is_empty = largest == 0
    return torch.where(is_empty, 1, lengths) / torch.where(is_empty, 1, largest)
