"""Small facts that every launch needs. Imports no triton."""

from __future__ import annotations

import torch
from torch import Tensor

# For the compiler, at every launch: what is to be one operation is written as one. x * a - p * b, fused, would not be 0
# where both products are the same. Triton's own default changes with its version.
OPTIONS = {"enable_fp_fusion": False}


def on_device(tensor: Tensor) -> torch.cuda.device:
    """Makes the device of a tensor current: Triton launches there. Does nothing for a CPU tensor."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)


def cells_of(prototypes: Tensor) -> Tensor:
    """Prototypes (P, D) or (P, D, h, w) as (P, D, h, w), a view."""
    return prototypes if prototypes.dim() == 4 else prototypes[:, :, None, None]
