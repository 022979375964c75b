"""Tensor ops of prototypical-part networks: distances between patches and prototypes, fused with their reductions.

Tensors in, tensors out: no modules, no files. One folder per op, with its maths in README.md and its definition in
reference.py; `prototype_pool` is in that of `min_distance`.
"""

from __future__ import annotations

from .backends import BackendStatus, available_backends
from .distance_at import distance_at
from .distance_map import distance_map
from .mean_activation import mean_activation
from .min_distance import MinDistance, PrototypePool, min_distance, prototype_pool
from .topk_pool import TopKPool, topk_pool

__all__ = [
    "BackendStatus",
    "MinDistance",
    "PrototypePool",
    "TopKPool",
    "available_backends",
    "distance_at",
    "distance_map",
    "mean_activation",
    "min_distance",
    "prototype_pool",
    "topk_pool",
]
