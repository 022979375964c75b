"""`prototype_pool` in C++: a thin call of the op that the native library registers."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native_library
from ..backends import given


def prototype_pool(
    features: Tensor,
    prototypes: Tensor,
    metric: str,
    activation: str,
    epsilon: float,
    precision: str,
    patch_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity (B, P), smallest distance (B, P) and the flat index of its patch (B, P) int64."""
    native_library.load()
    inputs = (features, prototypes, metric, activation, epsilon, precision)
    return torch.ops.protokern_native.prototype_pool.default(*inputs, *given(patch_weight))
