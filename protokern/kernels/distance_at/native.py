"""`distance_at` in C++: a thin call of the op that the native library registers."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native_library


def distance_at(features: Tensor, prototypes: Tensor, patch: Tensor, metric: str) -> Tensor:
    """Distance at the given patches, (B, P)."""
    native_library.load()
    return torch.ops.protokern_native.distance_at.default(features, prototypes, patch, metric)
