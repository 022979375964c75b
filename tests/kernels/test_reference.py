"""What only the reference has: chunks of any size, and products that autocast must leave alone."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from protokern import distance_at, distance_map, min_distance

from .cases import SMALL_PATCHES, Case
from .contract import METRICS


@pytest.mark.parametrize("budget", [1, 40, 700])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [Case(5, 7, 4, 3, 23), SMALL_PATCHES], ids=str)
def test_chunks_change_nothing(case: Case, metric: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, prototypes = (tensor.round().requires_grad_() for tensor in case.inputs())  # with ties
    whole = everything(features, prototypes, metric)
    for op in ("min_distance", "distance_map", "distance_at"):
        module = sys.modules[f"protokern.kernels.{op}.reference"]
        monkeypatch.setattr(module, "chunk_budget", lambda device: budget)
    for one, other in zip(whole, everything(features, prototypes, metric), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for one, other in zip(whole[:4], everything(features, prototypes, metric)[:4], strict=True):
        assert torch.equal(one, other)


def everything(features: Tensor, prototypes: Tensor, metric: str) -> list[Tensor]:
    """Distances, patches and the map, then the gradients, whose sums may round differently in other chunks."""
    value, patch = min_distance(features, prototypes, metric=metric, backend="reference")
    whole = distance_map(features, prototypes, metric=metric, backend="reference")
    there = distance_at(features, prototypes, patch.flip(0), metric=metric, backend="reference")
    grads = [torch.autograd.grad(output.sum(), (features, prototypes)) for output in (value, whole, there)]
    return [value, patch, whole, there, *(grad for pair in grads for grad in pair)]


def test_gradient_of_the_map_inside_autocast_stays_exact() -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in Case(2, 32, 6, 6, 40).inputs())
    loss = distance_map(features, prototypes, backend="reference").sum()
    wanted = torch.autograd.grad(loss, (features, prototypes), retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(loss, (features, prototypes))
    for one, other in zip(wanted, got, strict=True):
        assert torch.equal(one, other)
