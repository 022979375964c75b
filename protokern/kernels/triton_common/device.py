"""Small facts that every launch needs. Imports no triton."""

from __future__ import annotations

import torch
from torch import Tensor


def on_device(tensor: Tensor) -> torch.cuda.device:
    """Makes the device of a tensor current, on which Triton then launches. Does nothing for a CPU tensor."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)


def cells_of(prototypes: Tensor) -> Tensor:
    """Prototypes (P, D) or (P, D, h, w) as (P, D, h, w), a view."""
    return prototypes if prototypes.dim() == 4 else prototypes[:, :, None, None]
