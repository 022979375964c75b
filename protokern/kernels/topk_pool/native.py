"""The search of `topk_pool` in C++: a thin call of the op that the native library registers."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native_library
from ..backends import given


def topk_distance(
    features: Tensor, prototypes: Tensor, k: int, metric: str, precision: str, patch_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k smallest distances over the grid, ascending, (B, P, k), and their patches (B, P, k) int64."""
    native_library.load()
    inputs = (features, prototypes, k, metric, precision)
    return torch.ops.protokern_native.topk_distance.default(*inputs, *given(patch_weight))
