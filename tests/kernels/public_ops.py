"""The public ops under one signature, for what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from protokern import distance_at, distance_map, mean_activation, min_distance, prototype_pool, topk_pool

from . import oracle


def _at_first_patch(features: Any, prototypes: Any, **options: Any) -> Tensor:
    # Wrong input comes through here too: whatever has no first dimension counts as one.
    lengths = [len(one) if isinstance(one, Tensor) and one.dim() else 1 for one in (features, prototypes)]
    device = features.device if isinstance(features, Tensor) else "cpu"
    return distance_at(features, prototypes, torch.zeros(lengths, dtype=torch.int64, device=device), **options)


def _with_similarity(op: Callable[..., Any]) -> Callable[..., Any]:
    def call(features: Any, prototypes: Any, **options: Any) -> Any:
        fitting = oracle.SIMILARITY.get(options.get("metric", "sqeuclidean"), "log")
        return op(features, prototypes, **{"activation": fitting, **options})

    return call


def _two_nearest(features: Any, prototypes: Any, **options: Any) -> tuple[Tensor, ...]:
    return topk_pool(features, prototypes, 2, **options)


OPS: dict[str, Callable[..., Any]] = {
    "min_distance": min_distance,
    "prototype_pool": _with_similarity(prototype_pool),
    "distance_map": distance_map,
    "distance_at": _at_first_patch,
    "mean_activation": _with_similarity(mean_activation),
    "topk_pool": _with_similarity(_two_nearest),
}


def outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What an op returned, as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)
