"""`topk_pool` keeps the op contract on every backend: which patches, their order, ties, NaN, gradients, memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from protokern import TopKPool, distance_at, distance_map, prototype_pool, topk_pool

from . import oracle
from .cases import CASES, DTYPES, SMALL, SMALL_PATCHES, TOLERANCE, Case
from .contract import METRICS, OpContract
from .interpreted import CASES_OF_SLOW_KERNELS, interpreter_leaves_out, interpreter_runs
from .memory import peak_bytes
from .nearest_contract import problems

pytestmark = interpreter_runs(case=CASES_OF_SLOW_KERNELS, of_features=())


def patches_of(features: Tensor, prototypes: Tensor) -> int:
    """N, the patches of one image."""
    height, width = prototypes.shape[2:] or (1, 1)
    return (features.shape[2] - height + 1) * (features.shape[3] - width + 1)


class TestTopKPool(OpContract):
    def run(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, ...]:
        k = min(3, patches_of(features, prototypes))
        settings = {"activation": oracle.SIMILARITY[metric], "epsilon": 0.1, "metric": metric, "backend": backend}
        return tuple(topk_pool(features, prototypes, k, **settings))

    def expected(self, distances: Tensor, patch: Tensor | None, metric: str) -> tuple[Tensor, ...]:
        assert patch is not None
        value = distances.flatten(2).gather(2, patch)
        return oracle.activation(value, oracle.SIMILARITY[metric], 0.1).mean(-1), value


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_k_nearest_in_ascending_order(case: Case, metric: str, dtype: torch.dtype, backend: str) -> None:
    features, prototypes = case.inputs(dtype)
    k = min(8, patches_of(features, prototypes))
    result = topk_pool(features, prototypes, k, activation=oracle.SIMILARITY[metric], metric=metric, backend=backend)
    assert isinstance(result, TopKPool)
    assert result.patch.dtype == torch.int64
    assert (result.patch.sort(-1).values.diff(dim=-1) > 0).all()  # k different patches
    assert (result.distance.diff(dim=-1) >= 0).all()
    distances = oracle.distance_map(features, prototypes, metric).flatten(2)
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(result.distance.double(), distances.sort(-1).values[..., :k], rtol=rtol, atol=atol)
    torch.testing.assert_close(result.distance.double(), distances.gather(2, result.patch), rtol=rtol, atol=atol)
    for j in range(k):
        there = distance_at(features, prototypes, result.patch[..., j].contiguous(), metric=metric, backend=backend)
        torch.testing.assert_close(result.distance[..., j], there, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES, ids=str)
@interpreter_leaves_out("another op's cases")
def test_one_patch_is_prototype_pool_bit_for_bit(case: Case, metric: str, dtype: torch.dtype, backend: str) -> None:
    features, prototypes = case.inputs(dtype)
    one = topk_pool(features, prototypes, 1, activation=oracle.SIMILARITY[metric], metric=metric, backend=backend)
    pool = prototype_pool(features, prototypes, activation=oracle.SIMILARITY[metric], metric=metric, backend=backend)
    assert torch.equal(one.distance[..., 0], pool.min_distance)
    assert torch.equal(one.patch[..., 0], pool.patch)
    torch.testing.assert_close(one.activation, pool.activation, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [Case(3, 16, 2, 4, 50), Case(2, 5, 3, 5, 9, (2, 2)), Case(1, 7, 1, 5, 3)], ids=str)
@interpreter_leaves_out("long lists")
def test_all_patches_are_the_sorted_map(case: Case, metric: str, backend: str) -> None:
    features, prototypes = case.inputs()
    k = patches_of(features, prototypes)
    result = topk_pool(features, prototypes, k, activation=oracle.SIMILARITY[metric], metric=metric, backend=backend)
    whole = distance_map(features, prototypes, metric=metric, backend=backend).flatten(2)
    wanted = whole.sort(dim=-1, stable=True)
    torch.testing.assert_close(result.distance, wanted.values, rtol=1e-6, atol=1e-7)
    assert torch.equal(result.patch, wanted.indices)


def test_three_patches_and_two_prototypes_by_hand(backend: str) -> None:
    features = torch.tensor([[[[0.0, 3.0, 1.0]], [[0.0, 4.0, 1.0]]]]).requires_grad_()  # patches (0, 0), (3, 4), (1, 1)
    prototypes = torch.tensor([[3.0, 3.0], [1.0, 0.0]]).requires_grad_()
    result = topk_pool(features, prototypes, 2, activation="linear", backend=backend)
    assert result.distance.tolist() == [[[1.0, 8.0], [1.0, 1.0]]]
    assert result.patch.tolist() == [[[1, 2], [0, 2]]]
    assert result.activation.tolist() == [[-4.5, -1.0]]
    (result.activation * torch.tensor([[2.0, 20.0]])).sum().backward()
    assert features.grad is not None
    assert prototypes.grad is not None
    # -2 (g / 2) (x - p) for both patches of a prototype.
    assert features.grad.tolist() == [[[[20.0, 0.0, 4.0]], [[0.0, -2.0, 4.0 - 20.0]]]]
    assert prototypes.grad.tolist() == [[-4.0, -2.0], [-20.0, 20.0]]


def test_gradients_through_distance_and_activation_together(backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs(torch.float64))
    result = topk_pool(features, prototypes, 3, epsilon=0.1, backend=backend)
    weights = torch.randn_like(result.distance)
    got = torch.autograd.grad(result.activation.sum() + (weights * result.distance).sum(), (features, prototypes))
    value = oracle.distance_map(features, prototypes, "sqeuclidean").flatten(2).gather(2, result.patch)
    loss = oracle.activation(value, "log", 0.1).mean(-1).sum() + (weights * value).sum()
    for one, other in zip(got, torch.autograd.grad(loss, (features, prototypes)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kinds", [1, 3])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [Case(2, 37, 6, 7, 60), Case(2, 5, 6, 5, 20, (2, 2))], ids=str)
@interpreter_leaves_out("every pair is in doubt")
def test_equal_patches_come_in_order(case: Case, metric: str, kinds: int, backend: str) -> None:
    features, prototypes = case.inputs()
    columns = torch.arange(case.width) % kinds
    features = features[:, :, :1, :][..., columns].expand_as(features).contiguous()
    k = 8
    result = topk_pool(features, prototypes, k, activation=oracle.SIMILARITY[metric], metric=metric, backend=backend)
    whole = distance_map(features, prototypes, metric=metric, backend=backend).flatten(2)
    wanted = whole.sort(dim=-1, stable=True)
    assert torch.equal(result.distance, wanted.values[..., :k])
    assert torch.equal(result.patch, wanted.indices[..., :k])


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_an_exact_copy_comes_first_with_its_full_similarity(offset: float, backend: str) -> None:
    features = torch.rand(5, 128, 7, 7) + offset
    result = topk_pool(features, features[:, :, 3, 4].clone(), 4, backend=backend)
    own = torch.arange(5)
    assert torch.equal(result.distance[own, own, 0], torch.zeros(5))
    assert (result.patch[own, own, 0] == 3 * 7 + 4).all()
    alone = topk_pool(features, features[:, :, 3, 4].clone(), 1, backend=backend)
    torch.testing.assert_close(alone.activation.diagonal(), torch.full((5,), 9.2103), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_not_finite_gives_nan_k_times(metric: str, bad: float, backend: str) -> None:
    features, prototypes = Case(3, 17, 5, 4, 51).inputs()
    clean = topk_pool(features, prototypes, 3, activation=oracle.SIMILARITY[metric], metric=metric, backend=backend)
    features[1, 16, 2, 3] = bad
    features[1, 3, 4, 0] = bad
    prototypes[50, 0] = bad
    result = topk_pool(features, prototypes, 3, activation=oracle.SIMILARITY[metric], metric=metric, backend=backend)
    assert result.distance[1].isnan().all()
    assert result.distance[:, 50].isnan().all()
    assert result.activation[1].isnan().all()
    assert (result.patch[1, :50] == 2 * 4 + 3).all()
    assert (result.patch[:, 50] == 0).all()
    assert torch.equal(result.distance[[0, 2], :50], clean.distance[[0, 2], :50])
    assert torch.equal(result.patch[[0, 2], :50], clean.patch[[0, 2], :50])


def test_distances_too_large_for_the_type_are_infinite(backend: str) -> None:
    features = torch.full((1, 3, 2, 2), 1e30)
    result = topk_pool(features, -features[0, :, 0, 0][None], 3, backend=backend)
    assert result.distance.tolist() == [[[torch.inf] * 3]]
    assert result.patch.tolist() == [[[0, 1, 2]]]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("patch_size", [None, (2, 2)])
@interpreter_leaves_out("a large batch")
def test_no_tensor_of_all_distances_in_memory(patch_size: tuple[int, int] | None, metric: str, backend: str) -> None:
    case = Case(64, 6, 14, 14, 1024, patch_size)
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs())

    def forward_and_backward() -> None:
        result = topk_pool(
            features, prototypes, 2, activation=oracle.SIMILARITY[metric], metric=metric, backend=backend
        )
        torch.autograd.grad(result.activation.sum(), (features, prototypes))

    all_distances = 4 * case.batch * case.prototypes * case.height * case.width
    outputs = 4 * case.batch * case.prototypes * 2 * 8  # value, patch, similarity and their gradients, twice
    assert peak_bytes(forward_and_backward) - outputs < 0.25 * all_distances


@given(data=st.data())
@interpreter_leaves_out("a hundred launches")
def test_any_shape_layout_and_kind_of_values(data: st.DataObject, backend: str) -> None:
    features, prototypes, metric = data.draw(problems())
    k = data.draw(st.integers(1, min(8, patches_of(features, prototypes))))
    result = topk_pool(features, prototypes, k, activation=oracle.SIMILARITY[metric], metric=metric, backend=backend)
    distances = oracle.distance_map(features, prototypes, metric).flatten(2)
    rtol, atol = TOLERANCE[features.dtype]
    torch.testing.assert_close(result.distance.double(), distances.sort(-1).values[..., :k], rtol=rtol, atol=atol)
    torch.testing.assert_close(result.distance.double(), distances.gather(2, result.patch), rtol=rtol, atol=atol)
    assert (result.distance.diff(dim=-1) >= 0).all()
    ties = result.distance.diff(dim=-1) == 0
    assert (result.patch.diff(dim=-1)[ties] > 0).all()


def test_callable_activation_is_applied_to_the_distances(backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs())
    result = topk_pool(features, prototypes, 2, activation=lambda d: 1 / (1 + d), backend=backend)
    torch.testing.assert_close(result.activation, (1 / (1 + result.distance)).mean(-1))
    result.activation.sum().backward()
    with pytest.raises(ValueError, match=r"activation: must return the shape it was given, \(2, 7, 2\); got \(2, 7\)"):
        topk_pool(features, prototypes, 2, activation=lambda d: d.sum(-1), backend=backend)


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, r"k: must be a whole number from 1 to 8; got 0\."),
        (9, r"k: must be a whole number from 1 to 8; got 9\."),
        (True, r"k: must be a whole number from 1 to 8; got True\."),
        (2.0, r"k: must be a whole number from 1 to 8; got 2\.0\."),
        (math.nan, r"k: must be a whole number from 1 to 8; got nan\."),
        (
            5,
            r"k: must be at most 4, the patches of the 2 x 2 grid; got 5\. Ask for fewer, or use larger feature maps\.",
        ),
    ],
)
def test_wrong_k(k: object, message: str) -> None:
    features, prototypes = Case(1, 3, 2, 2, 4).inputs()
    with pytest.raises(ValueError, match=message):
        topk_pool(features, prototypes, k)


@pytest.mark.parametrize("epsilon", [0.0, math.nan])
def test_wrong_epsilon(epsilon: float) -> None:
    features, prototypes = SMALL_PATCHES.inputs()
    with pytest.raises(ValueError, match=r"epsilon: must be a finite number above 0; got "):
        topk_pool(features, prototypes, 2, epsilon=epsilon)
