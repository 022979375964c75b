"""The mean distance in closed form against the mean of the map."""

from __future__ import annotations

import pytest
import torch

from protokern.nn import mean_distance
from tests.kernels import oracle

# The mean is made of `distance_map`, whose backends have a battery of their own.
pytestmark = pytest.mark.parametrize("backend", ["reference", "native"], indirect=True)


def inputs(dtype: torch.dtype, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 6, 5, 4, generator=generator, dtype=torch.float64) + offset
    return features.to(dtype), (torch.randn(9, 6, generator=generator, dtype=torch.float64) + offset).to(dtype)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_value_and_gradient_are_those_of_the_mean_of_the_map(dtype: torch.dtype, offset: float, backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in inputs(dtype, offset))
    x, p = (tensor.detach().double().requires_grad_() for tensor in (features, prototypes))
    wanted = oracle.distance_map(x, p, "sqeuclidean").mean((2, 3))
    got = mean_distance(features, prototypes, backend=backend)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Of the components' size: a mean of N components near 1000 is off by some roundings of 1000.
    rounding = 1e-12 if dtype == torch.float64 else 1e-6
    tolerance = {"rtol": 10 * rounding, "atol": 20 * rounding * (1 + offset)}
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


def test_an_image_made_of_the_prototype_is_off_by_the_square_of_a_rounding(backend: str) -> None:
    prototypes = inputs(torch.float32, 5.0)[1]
    features = prototypes[:1, :, None, None].expand(1, 6, 4, 4).clone()
    mean = mean_distance(features, prototypes, backend=backend)
    assert mean[0, 0] < 1e-11
    assert (mean >= 0).all()


def test_a_patch_that_is_not_finite_gives_nan(backend: str) -> None:
    features, prototypes = inputs(torch.float32, 0.0)
    features[1, 2, 0, 0] = torch.inf
    mean = mean_distance(features, prototypes, backend=backend)
    assert mean[1].isnan().all()
    assert mean[[0, 2]].isfinite().all()
