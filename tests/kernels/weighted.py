"""The ops that take weights of the patches under one signature, and weights to try them with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from protokern import distance_at, distance_map, min_distance, prototype_pool, topk_pool

from . import oracle
from .cases import Case

MIDDLE = Case(3, 17, 5, 13, 49)
EPSILON = 0.1


def some_patch(features: Tensor, prototypes: Tensor) -> Tensor:
    """A patch (B, P) for every pair, whatever its distance."""
    count = patches_of(features, prototypes)
    return (torch.arange(len(features))[:, None] * 5 + torch.arange(len(prototypes)) * 3) % count


def patches_of(features: Tensor, prototypes: Tensor) -> int:
    height, width = prototypes.shape[2:] or (1, 1)
    return (features.shape[2] - height + 1) * (features.shape[3] - width + 1)


def _with_similarity(options: dict[str, Any]) -> dict[str, Any]:
    return {"activation": oracle.SIMILARITY[options.get("metric", "sqeuclidean")], **options}


def _min_distance(x: Tensor, p: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return tuple(min_distance(x, p, **options))


def _prototype_pool(x: Tensor, p: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return tuple(prototype_pool(x, p, epsilon=EPSILON, **_with_similarity(options)))


def _topk_pool(x: Tensor, p: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return tuple(topk_pool(x, p, min(2, patches_of(x, p)), epsilon=EPSILON, **_with_similarity(options)))


def _distance_at(x: Tensor, p: Tensor, **options: Any) -> tuple[Tensor, ...]:
    patch = some_patch(x, p)
    return distance_at(x, p, patch, **options), patch


def _distance_map(x: Tensor, p: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return (distance_map(x, p, **options),)


# Floating-point outputs, then the patch if the op has one.
OPS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "min_distance": _min_distance,
    "prototype_pool": _prototype_pool,
    "topk_pool": _topk_pool,
    "distance_at": _distance_at,
    "distance_map": _distance_map,
}
SEARCHES = ["min_distance", "prototype_pool", "topk_pool"]


def expected(op: str, weighted: Tensor, patch: Tensor | None, metric: str) -> tuple[Tensor, ...]:
    """The floating-point outputs of an op, made of float64 weighted distances (B, P, H', W') at `patch`."""
    if patch is None:
        return (weighted,)
    if op == "topk_pool":
        value = weighted.flatten(2).gather(2, patch)
        return oracle.activation(value, oracle.SIMILARITY[metric], EPSILON).mean(-1), value
    value = weighted.flatten(2).gather(2, patch[..., None])[..., 0]
    return (oracle.activation(value, oracle.SIMILARITY[metric], EPSILON), value) if op == "prototype_pool" else (value,)


def grid_of(case: Case) -> tuple[int, int, int]:
    height, width = case.patch or (1, 1)
    return case.batch, case.height - height + 1, case.width - width + 1


def weights_of(case: Case, dtype: torch.dtype = torch.float32, *, zeros: bool = True, seed: int = 3) -> Tensor:
    """Random weights: a sixth are 1, a sixth 0 unless `zeros` is False, and no image is without two that count."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(grid_of(case), generator=generator, dtype=torch.float64)
    weight = torch.where(drawn > 5 / 6, 1.0, 0.1 + 0.8 * drawn)
    if zeros:
        weight = torch.where(drawn < 1 / 6, 0.0, weight)
        weight.flatten(1)[:, -2:] = 0.5
    return weight.to(dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def split(outputs: tuple[Tensor, ...]) -> tuple[list[Tensor], Tensor | None]:
    floats = [output for output in outputs if output.is_floating_point()]
    patches = [output for output in outputs if not output.is_floating_point()]
    return floats, patches[0] if patches else None


def results(op: str, metric: str, backend: str, features: Tensor, prototypes: Tensor, weight: Tensor | None) -> list:
    """All outputs, and the gradients to features, prototypes and weights where these are floating."""
    inputs = [features, prototypes] if weight is None or weight.dtype == torch.bool else [features, prototypes, weight]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    given_weight = leaves[2] if len(leaves) == 3 else weight
    outputs = OPS[op](leaves[0], leaves[1], metric=metric, backend=backend, patch_weight=given_weight)
    floats, _ = split(outputs)
    slopes = [torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape) for out in floats]
    return [*outputs, *torch.autograd.grad(floats, leaves, slopes)]


def assert_same_bits(one: list, other: list) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
