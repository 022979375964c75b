"""The definition, on every backend: the nearest patch is what a scan of the backend's own map finds, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from protokern import distance_map, min_distance

from .cases import Case
from .contract import METRICS

FAMILIES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda tensor: tensor,
    "sigmoid": torch.sigmoid,
    "far_from_zero": lambda tensor: tensor + 1000,
    "hardly_different": lambda tensor: 1000 + 1e-3 * tensor,
    "few_values": torch.round,
    "one_huge_patch": lambda tensor: tensor * torch.where(torch.rand(tensor.shape) < 1e-3, 1e6, 1.0),
    "subnormal": lambda tensor: tensor * 1e-40,
    "subnormal_squares": lambda tensor: tensor * 3e-22,
    "overflowing": lambda tensor: tensor * 1e25,
    "some_zero": lambda tensor: (tensor - 0.5) * (torch.rand_like(tensor[:, :1]) > 0.2),
    "nearly_parallel": lambda tensor: 1 + 1e-4 * tensor,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [Case(4, 24, 9, 8, 60), Case(2, 6, 9, 8, 40, (2, 2))], ids=str)
def test_the_nearest_patch_is_the_first_smallest_of_the_map(
    case: Case, metric: str, family: str, dtype: torch.dtype, backend: str
) -> None:
    features, prototypes = (FAMILIES[family](tensor).to(dtype) for tensor in case.inputs())
    whole = distance_map(features, prototypes, metric=metric, backend=backend).flatten(2)
    # A sum of products may overflow on both sides, which is NaN and never the nearest.
    whole = whole.masked_fill(whole.isnan(), torch.inf)
    smallest = whole.amin(2)
    first = (whole == smallest[..., None]).to(torch.int8).argmax(2)
    value, patch = min_distance(features, prototypes, metric=metric, backend=backend)
    assert torch.equal(value, smallest)
    assert torch.equal(patch, first)
