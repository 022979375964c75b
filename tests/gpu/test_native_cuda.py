"""The contract battery on a CUDA device for every backend that runs there, and what only a device can show."""

# mypy: disable-error-code=misc
# The classes here are mixed into contracts, whose methods they call and replace.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from protokern import distance_at, min_distance, prototype_pool
from protokern.kernels import native_library
from tests.kernels import (
    test_distance_at,
    test_distance_map,
    test_mean_activation,
    test_min_distance,
    test_prototype_pool,
    test_topk_pool,
)
from tests.kernels.cases import Case
from tests.kernels.public_ops import OPS, outputs

from .on_device import NearestOnDevice, OnDevice, from_device, skip_unless_on_cuda, to_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module", params=["native", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    skip_unless_on_cuda(request.param)
    return request.param


class TestMinDistanceOnDevice(NearestOnDevice, test_min_distance.TestMinDistance):
    pass


class TestPrototypePoolOnDevice(NearestOnDevice, test_prototype_pool.TestPrototypePool):
    pass


class TestDistanceMapOnDevice(OnDevice, test_distance_map.TestDistanceMap):
    pass


class TestDistanceAtOnDevice(OnDevice, test_distance_at.TestDistanceAt):
    def run(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, ...]:
        patch = self.patch(features, prototypes)
        inputs = (to_device(tensor) for tensor in (features, prototypes, patch))
        return (*from_device((distance_at(*inputs, metric=metric, backend=backend),)), patch)


class TestMeanActivationOnDevice(OnDevice, test_mean_activation.TestMeanActivation):
    pass


class TestTopKPoolOnDevice(OnDevice, test_topk_pool.TestTopKPool):
    pass


def cuda_inputs(case: Case, dtype: torch.dtype = torch.float32, device: str = "cuda") -> list[Tensor]:
    return [tensor.to(device).requires_grad_() for tensor in case.inputs(dtype)]


def results_of(op: Callable[..., Any], inputs: list[Tensor], **options: Any) -> list[Tensor]:
    """What `op` returns, and the gradients of its inputs."""
    found = outputs(op(*inputs, **options))
    floats = [output for output in found if output.is_floating_point()]
    return [*found, *torch.autograd.grad(floats, inputs, [torch.ones_like(output) for output in floats])]


def test_the_cuda_library_is_built_where_nvcc_and_a_device_are() -> None:
    assert native_library.unavailable_reason("cuda") == ""


LARGE = [
    Case(16, 128, 7, 7, 2000),
    Case(2, 512, 14, 14, 1030),
    Case(2, 64, 129, 65, 190),
    Case(3, 768, 16, 16, 257),
    Case(4, 256, 28, 28, 202),
    Case(2, 96, 15, 14, 131, (2, 3)),
]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large_cases(case: Case, metric: str, precision: str, backend: str) -> None:
    features, prototypes = cuda_inputs(case)
    with torch.no_grad():
        for number in range(0, case.prototypes, 7):  # copies, as after a push
            row = number % (case.height - 1)
            patch = features[number % case.batch, :, row : row + (case.patch or (1, 1))[0]]
            prototypes[number] = patch[:, :, 3 : 3 + case.patch[1]] if case.patch else patch[:, 0, 3]
    found = min_distance(features, prototypes, metric=metric, precision=precision, backend=backend)
    wanted = min_distance(features.double(), prototypes.double(), metric=metric, backend="reference")
    at_patch = distance_at(features.double(), prototypes.double(), found.patch, metric=metric, backend="reference")
    torch.testing.assert_close(found.value.double(), at_patch, rtol=2e-5, atol=2e-6)
    copied = torch.arange(0, case.prototypes, 7, device="cuda")
    assert torch.equal(found.value[copied % case.batch, copied], torch.zeros(len(copied), device="cuda"))
    if precision == "fp32":
        assert (at_patch <= wanted.value * (1 + 1e-5) + 1e-7).all()
    weights = torch.randn_like(found.value)
    grads = torch.autograd.grad(found.value, (features, prototypes), weights)
    x, p = features.detach().double().requires_grad_(), prototypes.detach().double().requires_grad_()
    truth = distance_at(x, p, found.patch, metric=metric, backend="reference")
    for grad, exact in zip(grads, torch.autograd.grad(truth, (x, p), weights.double()), strict=True):
        scale = max(1.0, exact.abs().max().item())
        torch.testing.assert_close(grad.double(), exact, rtol=2e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("op", OPS)
def test_twenty_runs_give_the_same_bits(op: str, backend: str) -> None:
    inputs = cuda_inputs(Case(9, 100, 14, 14, 333))
    first = results_of(OPS[op], inputs, backend=backend)
    for _ in range(19):
        for one, other in zip(first, results_of(OPS[op], inputs, backend=backend), strict=True):
            assert torch.equal(one, other)


def test_more_than_two_to_the_31_elements(backend: str) -> None:
    if torch.cuda.mem_get_info()[0] < 48 << 30:
        pytest.skip("needs 48 GiB of free device memory")
    batch = 2**31 // (64 * 56 * 56) + 3
    features = torch.empty(batch, 64, 56, 56, dtype=torch.bfloat16, device="cuda").normal_()
    prototypes = torch.randn(10, 64, device="cuda").bfloat16()
    prototypes[3] = features[-1, :, 55, 55]
    found = prototype_pool(features, prototypes, backend=backend)
    assert found.min_distance[-1, 3] == 0
    assert found.patch[-1, 3] == 56 * 56 - 1
    last = min_distance(features[-2:].clone(), prototypes, backend=backend)
    assert torch.equal(found.min_distance[-2:], last.value)
    assert torch.equal(found.patch[-2:], last.patch)


@pytest.mark.parametrize("op", OPS)
def test_another_device_than_the_current_one(op: str, backend: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    case = Case(3, 20, 7, 6, 40)
    wanted = results_of(OPS[op], cuda_inputs(case, device="cuda:0"), backend=backend)
    got = results_of(OPS[op], cuda_inputs(case, device="cuda:1"), backend=backend)
    assert torch.cuda.current_device() == 0
    for one, other in zip(wanted, got, strict=True):
        assert other.device.index == 1
        assert torch.equal(one.cpu(), other.cpu())


def test_positions_beyond_the_grid_are_not_read(backend: str) -> None:
    if backend != "native":
        pytest.skip("the C++ op alone can be called without the checks of protokern.distance_at")
    features, prototypes = (tensor.cuda() for tensor in Case(1, 4, 2, 2, 3).inputs())
    patch = torch.tensor([[0, 4, -1]], device="cuda")
    value = torch.ops.protokern_native.distance_at(features, prototypes, patch, "sqeuclidean")
    assert value.isnan().tolist() == [[False, True, True]]
