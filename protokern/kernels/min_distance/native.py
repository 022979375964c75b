"""`min_distance` and its gradient in C++: thin calls of the ops that the native library registers."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native_library
from ..backends import given


def min_distance(
    features: Tensor, prototypes: Tensor, metric: str, precision: str, patch_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Smallest distance over the grid (B, P) and the flat index of its patch (B, P) int64."""
    native_library.load()
    inputs = (features, prototypes, metric, precision)
    return torch.ops.protokern_native.min_distance.default(*inputs, *given(patch_weight))


def min_distance_backward(
    grad_value: Tensor,
    features: Tensor,
    prototypes: Tensor,
    patch: Tensor,
    metric: str,
    need_features: bool,
    need_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the distance at `patch` (B, P), each shaped like its input, or (0,) where it is not needed."""
    native_library.load()
    return torch.ops.protokern_native.min_distance_backward.default(
        grad_value, features, prototypes, patch, metric, need_features, need_prototypes
    )
