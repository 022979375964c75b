"""Small facts that every launch needs. Imports no triton."""

from __future__ import annotations

import torch
from torch import Tensor

# For the compiler, at every launch: fuse no multiply-add that is not written as one. A fused x * a - p * b would not be
# 0 if both products are equal. The default of Triton changes with its version.
OPTIONS = {"enable_fp_fusion": False}


def on_device(tensor: Tensor) -> torch.cuda.device:
    """Makes the device of a tensor current, on which Triton then launches. Does nothing for a CPU tensor."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)


def cells_of(prototypes: Tensor) -> Tensor:
    """Prototypes (P, D) or (P, D, h, w) as (P, D, h, w), a view."""
    return prototypes if prototypes.dim() == 4 else prototypes[:, :, None, None]
