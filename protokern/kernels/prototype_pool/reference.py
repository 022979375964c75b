"""The definition of `prototype_pool`: an activation of the smallest distance."""

from __future__ import annotations

from torch import Tensor

from ..min_distance import reference
from ..similarity import activate


def prototype_pool(
    features: Tensor,
    prototypes: Tensor,
    metric: str,
    activation: str,
    epsilon: float,
    patch_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity (B, P), smallest distance (B, P) and the flat index of its patch (B, P) int64."""
    value, patch = reference.min_distance(features, prototypes, metric, patch_weight)
    return activate(value, activation, epsilon), value, patch
