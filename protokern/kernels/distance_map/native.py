"""`distance_map` in C++: a thin call of the op that the native library registers."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native_library


def distance_map(features: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    """Distance of every patch, (B, P, H', W')."""
    native_library.load()
    return torch.ops.protokern_native.distance_map.default(features, prototypes, metric)
