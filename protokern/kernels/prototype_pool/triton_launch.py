"""`prototype_pool` in Triton: the search of min_distance with the activation in its last step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..min_distance.triton_launch import min_distance, search
from ..similarity import activate


def prototype_pool(
    features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float, precision: str,
    patch_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Similarity (B, P), smallest distance (B, P) and the flat index of its patch (B, P) int64."""
    if features.dtype == torch.float64:
        # A kernel takes epsilon as a float32, which is too coarse for float64 similarities.
        value, patch = min_distance(features, prototypes, metric, precision, patch_weight)
        return activate(value, activation, epsilon), value, patch
    found = search(features, prototypes, metric, precision, activation, epsilon, patch_weight)
    return found.similarity, found.value, found.patch
