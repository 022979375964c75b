"""`distance_map` keeps the op contract on every backend, for all prototypes and for a chosen few."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern import distance_map

from . import oracle
from .cases import SMALL, SMALL_PATCHES, Case
from .contract import METRICS, OpContract
from .interpreted import interpreter_runs

pytestmark = interpreter_runs()


class TestDistanceMap(OpContract):
    def run(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, ...]:
        return (distance_map(features, prototypes, metric=metric, backend=backend),)

    def expected(self, distances: Tensor, patch: Tensor | None, metric: str) -> tuple[Tensor, ...]:
        return (distances,)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES], ids=str)
def test_chosen_prototypes_in_any_order_and_with_repeats(case: Case, metric: str, backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs())
    index = torch.tensor([4, 0, 4, 2, 4])
    chosen = distance_map(features, prototypes, prototype_index=index, metric=metric, backend=backend)
    whole = distance_map(features, prototypes, metric=metric, backend=backend)
    torch.testing.assert_close(chosen, whole[:, index], rtol=0, atol=0)
    weights = torch.randn_like(chosen)
    got = torch.autograd.grad(chosen, (features, prototypes), weights)
    wanted = torch.autograd.grad(whole, (features, prototypes), torch.zeros_like(whole).index_add_(1, index, weights))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_no_chosen_prototype(backend: str) -> None:
    features, prototypes = SMALL.inputs()
    index = torch.empty(0, dtype=torch.int64)
    assert distance_map(features, prototypes, prototype_index=index, backend=backend).shape == (2, 0, 4, 3)


@pytest.mark.parametrize("metric", oracle.DIFFERENCES)
def test_exact_copies_are_at_distance_zero_at_an_offset(metric: str, backend: str) -> None:
    features = torch.rand(3, 64, 5, 6) + 1000
    whole = distance_map(features, features[:, :, 2, 1], metric=metric, backend=backend)
    for image in range(3):
        assert whole[image, image, 2, 1] == 0
    assert (whole >= 0).all()


def test_gradient_far_from_zero(backend: str) -> None:
    features, prototypes = ((tensor + 1000).requires_grad_() for tensor in Case(2, 20, 5, 5, 30).inputs())
    weights = torch.randn(2, 30, 5, 5)
    got = torch.autograd.grad(distance_map(features, prototypes, backend=backend), (features, prototypes), weights)
    x, p = (tensor.detach().double().requires_grad_() for tensor in (features, prototypes))
    wanted = torch.autograd.grad(oracle.distance_map(x, p, "sqeuclidean"), (x, p), weights.double())
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_nan_where_the_patch_or_the_prototype_is_not_finite(metric: str, backend: str) -> None:
    features, prototypes = SMALL.inputs()
    features[1, :, 2, 2] = 0  # at cosine distance 1 from everything, but not from what is not finite
    clean = distance_map(features, prototypes, metric=metric, backend=backend)
    features[0, 3, 1, 2] = torch.inf
    prototypes[5, 0] = torch.nan
    whole = distance_map(features, prototypes, metric=metric, backend=backend)
    bad = torch.zeros_like(whole, dtype=torch.bool)
    bad[0, :, 1, 2] = True
    bad[:, 5] = True
    assert whole[bad].isnan().all()
    torch.testing.assert_close(whole[~bad], clean[~bad], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ([0, 1], TypeError, r"prototype_index: must be a torch\.Tensor; got list\."),
        (torch.tensor([0, 1], dtype=torch.int32), ValueError, r"prototype_index: must be int64; got torch\.int32\."),
        (torch.tensor([[0]]), ValueError, r"prototype_index: must have shape \(P',\); got \(1, 1\)\."),
        (torch.tensor([0, 7]), ValueError, r"prototype_index: must be in \[0, 7\); got values from 0 to 7\."),
        (torch.tensor([-1]), ValueError, r"prototype_index: must be in \[0, 7\); got values from -1 to -1\."),
        (torch.tensor([0], device="meta"), ValueError, r"prototype_index: must be on cpu; got meta\."),
    ],
)
def test_wrong_prototype_index(index: Tensor, error: type[Exception], message: str) -> None:
    features, prototypes = SMALL.inputs()
    with pytest.raises(error, match=message):
        distance_map(features, prototypes, prototype_index=index)
