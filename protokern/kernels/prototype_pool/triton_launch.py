"""`prototype_pool` in Triton: the search of min_distance with the activation in its last step."""

from __future__ import annotations

from torch import Tensor

from ..min_distance.triton_launch import search


def prototype_pool(
    features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity (B, P), smallest distance (B, P) and the flat index of its patch (B, P) int64."""
    found = search(features, prototypes, metric, precision, activation, epsilon)
    return found.similarity, found.value, found.patch
