"""The ops that are measured: our call, and what the same result is computed from when all distances are at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import protokern

TOP_K = 5
ACTIVATIONS = ("log", "linear")


def activate(distance: Tensor, activation: str) -> Tensor:
    """log((d + 1) / (d + 1e-4)), what the released programs compute; or -d, which the check of the answers asks for."""
    return torch.log((distance + 1) / (distance + 1e-4)) if activation == "log" else -distance


@dataclass(frozen=True, kw_only=True)
class Op:
    """One op.

    Attributes:
        ours: takes features, prototypes, backend, precision and activation; returns (B, P).
        reduce: takes all distances (B, P, N) and an activation; returns (B, P).
        of_smallest: takes the smallest distances (B, P) and an activation; None where more than those are needed, so
            that a method that finds only the nearest patch cannot compute the op.
    """

    name: str
    ours: Callable[[Tensor, Tensor, str, str, str], Tensor]
    reduce: Callable[[Tensor, str], Tensor]
    of_smallest: Callable[[Tensor, str], Tensor] | None


def _min_distance(features: Tensor, prototypes: Tensor, backend: str, precision: str, activation: str) -> Tensor:
    return protokern.min_distance(features, prototypes, backend=backend, precision=precision).value


def _prototype_pool(features: Tensor, prototypes: Tensor, backend: str, precision: str, activation: str) -> Tensor:
    return protokern.prototype_pool(
        features, prototypes, activation=activation, backend=backend, precision=precision
    ).activation


def _mean_activation(features: Tensor, prototypes: Tensor, backend: str, precision: str, activation: str) -> Tensor:
    return protokern.mean_activation(features, prototypes, activation=activation, backend=backend, precision=precision)


def _topk_pool(features: Tensor, prototypes: Tensor, backend: str, precision: str, activation: str) -> Tensor:
    return protokern.topk_pool(
        features, prototypes, TOP_K, activation=activation, backend=backend, precision=precision
    ).activation


def _itself(smallest: Tensor, activation: str) -> Tensor:
    return smallest


def _smallest(distances: Tensor, activation: str) -> Tensor:
    return distances.min(dim=2).values


def _pooled(distances: Tensor, activation: str) -> Tensor:
    return activate(_smallest(distances, activation), activation)


def _averaged(distances: Tensor, activation: str) -> Tensor:
    return activate(distances, activation).mean(dim=2)


def _top_averaged(distances: Tensor, activation: str) -> Tensor:
    # Activations fall with the distance, so the top of one are the least of the other.
    return activate(distances, activation).topk(TOP_K, dim=2).values.mean(dim=2)


_ALL = (
    Op(name="min_distance", ours=_min_distance, reduce=_smallest, of_smallest=_itself),
    Op(name="prototype_pool", ours=_prototype_pool, reduce=_pooled, of_smallest=activate),
    Op(name="mean_activation", ours=_mean_activation, reduce=_averaged, of_smallest=None),
    Op(name="topk_pool", ours=_topk_pool, reduce=_top_averaged, of_smallest=None),
)
OPS = {op.name: op for op in _ALL}
