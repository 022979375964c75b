"""The mean distance in closed form against the mean of the map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern.nn import mean_distance
from tests.kernels import oracle

# The mean is made of `distance_map` and `mean_activation`, whose backends have batteries of their own.
pytestmark = pytest.mark.parametrize("backend", ["reference", "native"], indirect=True)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
METRICS = ["sqeuclidean", "cosine"]
SIZES = [(), (1, 1), (2, 1), (2, 3)]


def inputs(dtype: torch.dtype, offset: float, size: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 6, 5, 4, generator=generator, dtype=torch.float64) + offset
    prototypes = torch.randn(9, 6, *size, generator=generator, dtype=torch.float64) + offset
    return features.to(dtype), prototypes.to(dtype)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_gradient_are_those_of_the_mean_of_the_map(
    dtype: torch.dtype, offset: float, metric: str, size: tuple[int, ...], backend: str
) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in inputs(dtype, offset, size))
    x, p = (tensor.detach().double().requires_grad_() for tensor in (features, prototypes))
    wanted = oracle.distance_map(x, p, metric).mean((2, 3))
    got = mean_distance(features, prototypes, metric=metric, backend=backend)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Of the components' size: a mean of N components near 1000 is off by some roundings of 1000. A cosine has no size.
    rounding = 1e-12 if dtype == torch.float64 else 1e-6
    tolerance = {"rtol": 10 * rounding, "atol": 20 * rounding * (1 + (offset if metric == "sqeuclidean" else 0))}
    if metric == "cosine":
        tolerance = {"rtol": 0, "atol": rounding}
    torch.testing.assert_close(got.double(), wanted, **tolerance)
    weight = torch.randn_like(got)
    grads = torch.autograd.grad(got, (features, prototypes), weight)
    wanted_grads = torch.autograd.grad(wanted, (x, p), weight.double())
    for grad, source, wanted_grad in zip(grads, (features, prototypes), wanted_grads, strict=True):
        assert grad.dtype == source.dtype
        half = torch.finfo(dtype).eps if dtype in (torch.bfloat16, torch.float16) else 0
        torch.testing.assert_close(
            grad.double(), wanted_grad, rtol=10 * rounding + half, atol=tolerance["atol"] + half * 1e-2
        )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_gradcheck(metric: str, size: tuple[int, ...], backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in inputs(torch.float64, 0.5, size))
    arguments = (features[:1, :3], prototypes[:2, :3])
    assert torch.autograd.gradcheck(lambda x, p: mean_distance(x, p, metric=metric, backend=backend), arguments)


@pytest.mark.parametrize("metric", METRICS)
def test_one_gradient_of_two_is_computed_alone(metric: str, backend: str) -> None:
    for index in (0, 1):
        tensors = inputs(torch.float64, 0.0)
        tensors[index].requires_grad_()
        x, p = (tensor.detach().clone().requires_grad_() for tensor in tensors)
        mean_distance(*tensors, metric=metric, backend=backend).square().sum().backward()
        oracle.distance_map(x, p, metric).mean((2, 3)).square().sum().backward()
        torch.testing.assert_close(tensors[index].grad, (x, p)[index].grad)
        assert tensors[1 - index].grad is None


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_zero_vectors_are_like_nothing_and_get_the_gradients_of_the_map(
    dtype: torch.dtype, metric: str, size: tuple[int, ...], backend: str
) -> None:
    features, prototypes = inputs(dtype, 0.0, size)
    features[0] = 0
    features[1, :, 2, 1] = 0
    prototypes[4] = 0
    features.requires_grad_()
    prototypes.requires_grad_()
    x, p = (tensor.detach().double().requires_grad_() for tensor in (features, prototypes))
    got = mean_distance(features, prototypes, metric=metric, backend=backend)
    wanted = oracle.distance_map(x, p, metric).mean((2, 3))
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)
    if metric == "cosine":
        assert (got[0] == 1).all()
        assert (got[:, 4] == 1).all()
    weight = torch.randn_like(got)
    grads = torch.autograd.grad(got, (features, prototypes), weight)
    wanted_grads = torch.autograd.grad(wanted, (x, p), weight.double())
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad.double(), wanted_grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(), (2, 1)], ids=str)
def test_an_image_made_of_the_prototype_is_off_by_the_square_of_a_rounding(size: tuple[int, ...], backend: str) -> None:
    prototypes = inputs(torch.float32, 5.0)[1]
    features = prototypes[:1, :, None, None].expand(1, 6, 4, 4).clone()
    if size:
        prototypes = prototypes[:, :, None, None].expand(9, 6, *size)
    mean = mean_distance(features, prototypes, backend=backend)
    assert mean[0, 0] < 1e-11
    assert (mean >= 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_patch_that_is_not_finite_gives_nan(value: float, metric: str, backend: str) -> None:
    features, prototypes = inputs(torch.float32, 0.0)
    features[1, 2, 0, 0] = value
    mean = mean_distance(features, prototypes, metric=metric, backend=backend)
    assert mean[1].isnan().all()
    assert mean[[0, 2]].isfinite().all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_with_weights_it_is_the_mean_of_the_weighted_map(size: tuple[int, ...], backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in inputs(torch.float64, 0.0, size))
    distance = oracle.distance_map(features, prototypes, "cosine")  # (B, P, H', W')
    weight = torch.rand(distance.shape[0], *distance.shape[2:], dtype=torch.float64)
    weight[0, 0, :2] = torch.tensor([0.0, 1.0])
    weight.requires_grad_()
    wanted = (1 - weight[:, None] * (1 - distance)).mean((2, 3))
    got = mean_distance(features, prototypes, metric="cosine", backend=backend, patch_weight=weight)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    slope = torch.randn_like(got)
    inputs_of_both = (features, prototypes, weight)
    grads, wanted_grads = (torch.autograd.grad(one, inputs_of_both, slope) for one in (got, wanted))
    torch.testing.assert_close(grads, wanted_grads, rtol=1e-10, atol=1e-12)


def test_weights_are_for_the_cosine_metric(backend: str) -> None:
    features, prototypes = inputs(torch.float32, 0.0)
    with pytest.raises(ValueError, match=r"patch_weight: must be None with metric 'sqeuclidean'; got weights"):
        mean_distance(features, prototypes, backend=backend, patch_weight=torch.ones(3, 5, 4))
