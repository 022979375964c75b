"""Every op on a CUDA device, on every backend and in every precision, against float64 on the processor.

The gate of the benchmarks on CUDA. Shapes go past several tiles and splits; those of tests/kernels check the corners.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from protokern import available_backends, distance_at, distance_map, mean_activation, min_distance, topk_pool
from protokern.kernels.backends import choose_backend
from tests.kernels.cases import TOLERANCE, Case, gradient_tolerance

# The processor plays the device where this is set, to try the tests themselves.
PLACE = os.environ.get("PROTOKERN_TEST_PLACE", "cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(PLACE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CASES = [
    Case(3, 16, 7, 7, 50),
    Case(2, 17, 5, 13, 49),
    Case(4, 33, 3, 11, 130),
    Case(2, 3, 4, 5, 6, (2, 3)),
    Case(3, 7, 6, 5, 34, (3, 2)),
]
# Several tiles of prototypes, of positions and of channels; one image whose grid must be split to fill a device.
LARGE_CASES = [
    Case(8, 128, 7, 7, 600),
    Case(4, 512, 14, 14, 300),
    Case(3, 768, 16, 16, 130),
    Case(1, 64, 129, 65, 190),
    Case(2, 96, 12, 12, 140, (2, 2)),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Unit roundoff of a rounded factor; "fp32" promises the nearest patch to 1e-5 of its distance.
ROUNDOFF = {"fp32": 0.0, "tf32": 2.0**-11, "bf16": 2.0**-8}


@pytest.fixture(params=["triton", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    status = available_backends()[request.param]
    if not status.available or PLACE not in status.devices:
        pytest.skip(f"backend {request.param!r}: {status.reason or f'does not run on {PLACE}'}")
    return request.param


@pytest.fixture(params=["fp32", "tf32", "bf16"])
def precision(request: pytest.FixtureRequest, backend: str) -> str:
    try:
        choose_backend(backend, torch.device(PLACE), torch.float32, request.param)
    except ValueError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(autouse=True)
def device_is_left_clean() -> Iterator[None]:
    """A kernel that writes where it must not shows here, not in the next test."""
    yield
    if PLACE == "cuda":
        torch.cuda.synchronize()


def on_device(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(PLACE) for tensor in tensors]


def pushed(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inputs whose first prototypes are exact patches of the first image."""
    features, prototypes = case.inputs(dtype)
    height, width = case.patch or (1, 1)
    for index in range(min(5, case.prototypes)):
        row, column = index % (case.height - height + 1), index % (case.width - width + 1)
        patch = features[0, :, row : row + height, column : column + width]
        prototypes[index] = patch if case.patch else patch[:, 0, 0]
    return features, prototypes


def slack(features: Tensor, prototypes: Tensor, precision: str) -> float:
    """How much farther than the nearest the best by rounded scores can be: twice the error of 2 x.p."""
    cells = features.double().square().sum(1)
    cells = cells.flatten().max() * (1 if prototypes.dim() == 2 else prototypes[0, 0].numel())
    return float(4 * ROUNDOFF[precision] * (cells + prototypes.double().flatten(1).square().sum(1).max()))


def check_nearest(
    features: Tensor, prototypes: Tensor, value: Tensor, patch: Tensor, metric: str, precision: str
) -> None:
    """`value` is the exact distance at `patch`, and `patch` as near as the precision promises."""
    exact = [features.double(), prototypes.double()]
    at_patch = distance_at(*exact, patch.cpu(), metric=metric, backend="reference")
    rtol, atol = TOLERANCE[features.dtype]
    torch.testing.assert_close(value.cpu().double(), at_patch, rtol=rtol, atol=atol)
    smallest = distance_map(*exact, metric=metric, backend="reference").flatten(2).amin(2)
    far = slack(features, prototypes, precision) if metric == "sqeuclidean" else 8 * ROUNDOFF[precision]
    assert bool((at_patch <= smallest * (1 + 1e-5) + atol + far).all())


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nearest_patches_and_their_gradients(case: Case, dtype: torch.dtype, metric: str, backend: str) -> None:
    features, prototypes = pushed(case, dtype)
    check_with_gradients(features, prototypes, metric, "fp32", backend)


@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_several_tiles_in_every_precision(case: Case, precision: str, backend: str) -> None:
    features, prototypes = pushed(case, torch.float32)
    value = check_with_gradients(features, prototypes, "sqeuclidean", precision, backend)
    copies = torch.arange(5)
    assert value[0, copies].tolist() == [0.0] * 5


def check_with_gradients(features: Tensor, prototypes: Tensor, metric: str, precision: str, backend: str) -> Tensor:
    given = [tensor.clone().requires_grad_() for tensor in on_device(features, prototypes)]
    value, patch = min_distance(
        *given, metric=metric, precision=None if features.dtype == torch.float64 else precision, backend=backend
    )
    check_nearest(features, prototypes, value.detach(), patch, metric, precision)
    grad = torch.randn(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(value.dtype)
    found = torch.autograd.grad(value, given, grad.to(PLACE))
    exact = [tensor.double().requires_grad_() for tensor in (features, prototypes)]
    at_patch = distance_at(*exact, patch.cpu(), metric=metric, backend="reference")
    expected = torch.autograd.grad(at_patch, exact, grad.double())
    rtol, _ = gradient_tolerance(features.dtype)
    for one, wanted in zip(found, expected, strict=True):
        # Sums of either sign are compared relative to the largest.
        scale = float(wanted.abs().max()) or 1.0
        torch.testing.assert_close(one.cpu().double() / scale, wanted / scale, rtol=rtol, atol=rtol)
    again = torch.autograd.grad(
        min_distance(
            *given, metric=metric, precision=None if features.dtype == torch.float64 else precision, backend=backend
        ).value,
        given,
        grad.to(PLACE),
    )
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    return value.detach().cpu()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_layouts_give_the_same_bits(layout: str, precision: str, backend: str) -> None:
    features, prototypes = on_device(*pushed(LARGE_CASES[0], torch.float32))
    expected = min_distance(features, prototypes, precision=precision, backend=backend)
    if layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        features = torch.cat([features, features + 1], 3)[..., : features.shape[3]]
    found = min_distance(features, prototypes, precision=precision, backend=backend)
    assert torch.equal(found.value, expected.value)
    assert torch.equal(found.patch, expected.patch)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_gives_nan(bad: float, precision: str, backend: str) -> None:
    features, prototypes = pushed(LARGE_CASES[0], torch.float32)
    features[1, 5, 2, 3] = bad
    prototypes[7, 3] = bad
    value, patch = min_distance(*on_device(features, prototypes), precision=precision, backend=backend)
    value, patch = value.cpu(), patch.cpu()
    assert bool(value[1].isnan().all())
    assert bool(value[:, 7].isnan().all())
    others = torch.ones_like(value, dtype=torch.bool)
    others[1], others[:, 7] = False, False
    assert bool(value[others].isfinite().all())
    assert set(patch[1][torch.arange(len(prototypes)) != 7].tolist()) == {2 * 7 + 3}


def weights_of(case: Case, dtype: torch.dtype = torch.float32) -> Tensor:
    """A weight for each patch: about a third are 0, some 1."""
    height, width = case.patch or (1, 1)
    shape = case.batch, case.height - height + 1, case.width - width + 1
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    weight = torch.where(drawn < 0.3, 0.0, torch.where(drawn > 0.9, 1.0, drawn))
    weight.flatten(1)[:, -3:] = 0.5
    return weight.to(dtype)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("case", [*CASES, LARGE_CASES[0], LARGE_CASES[3]], ids=str)
def test_weights_of_the_patches(case: Case, metric: str, precision: str, backend: str) -> None:
    features, prototypes = case.inputs()
    weight = weights_of(case)
    given = [tensor.clone().requires_grad_() for tensor in on_device(features, prototypes, weight)]
    value, patch = min_distance(
        given[0], given[1], metric=metric, precision=precision, backend=backend, patch_weight=given[2]
    )
    exact = [tensor.double().requires_grad_() for tensor in (features, prototypes, weight)]
    options: dict[str, Any] = {"metric": metric, "backend": "reference", "patch_weight": exact[2]}
    at_patch = distance_at(exact[0], exact[1], patch.cpu(), **options)
    rtol, atol = TOLERANCE[torch.float32]
    torch.testing.assert_close(value.detach().cpu().double(), at_patch.detach(), rtol=rtol, atol=atol)
    smallest = distance_map(exact[0], exact[1], **options).detach().flatten(2).amin(2)
    far = slack(features, prototypes, precision) if metric == "sqeuclidean" else 8 * ROUNDOFF[precision]
    assert bool((at_patch.detach() <= smallest * (1 + 1e-5) + atol + far).all())
    grad = torch.linspace(-1, 2, value.numel()).view(value.shape)
    found = torch.autograd.grad(value, given, grad.to(PLACE))
    for one, wanted in zip(found, torch.autograd.grad(at_patch, exact, grad.double()), strict=True):
        scale = float(wanted.abs().max()) or 1.0
        torch.testing.assert_close(one.cpu().double() / scale, wanted / scale, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("case", [*CASES, LARGE_CASES[0]], ids=str)
def test_weights_of_one_change_no_bit(case: Case, metric: str, precision: str, backend: str) -> None:
    features, prototypes = on_device(*pushed(case, torch.float32))
    ones = torch.ones_like(weights_of(case), device=PLACE)
    options: dict[str, Any] = {"metric": metric, "precision": precision, "backend": backend}
    plain = min_distance(features, prototypes, **options)
    weighted = min_distance(features, prototypes, patch_weight=ones, **options)
    assert torch.equal(plain.value, weighted.value)
    assert torch.equal(plain.patch, weighted.patch)
    few = [topk_pool(features, prototypes, 3, patch_weight=one, **options) for one in (None, ones)]
    assert all(torch.equal(one, other) for one, other in zip(*few, strict=True))


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("case", [*CASES, LARGE_CASES[0]], ids=str)
def test_the_weighted_nearest_few(case: Case, metric: str, backend: str) -> None:
    features, prototypes = case.inputs()
    weight = weights_of(case)
    weight[-1] = 0
    weight[-1, 0, 1] = 0.5
    given = on_device(features, prototypes)
    found = topk_pool(*given, 3, metric=metric, precision="fp32", backend=backend, patch_weight=weight.to(PLACE))
    exact = features.double(), prototypes.double()
    whole = distance_map(*exact, metric=metric, backend="reference", patch_weight=weight.double()).flatten(2)
    wanted = whole.sort(2).values[:, :, :3]
    rtol, atol = TOLERANCE[torch.float32]
    torch.testing.assert_close(found.distance.cpu().double(), wanted, rtol=rtol, atol=atol)
    assert found.patch[-1].eq(1).all()
    at = whole.gather(2, found.patch.cpu())[:-1]
    torch.testing.assert_close(at, wanted[:-1], rtol=rtol, atol=atol)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_weights_that_spoil_an_image(bad: float, precision: str, backend: str) -> None:
    case = LARGE_CASES[0]
    features, prototypes = case.inputs()
    weight = weights_of(case)
    weight[1, 2, 3] = weight[1, 4, 4] = bad
    weight[2] = 0
    features, prototypes, weight = on_device(features, prototypes, weight)
    found = min_distance(features, prototypes, precision=precision, backend=backend, patch_weight=weight)
    assert found.value.isnan().all(1).tolist() == [image in (1, 2) for image in range(8)]
    assert found.patch[1].eq(2 * 7 + 3).all()
    assert found.patch[2].eq(0).all()


@pytest.mark.parametrize("case", [*CASES, LARGE_CASES[0]], ids=str)
def test_the_nearest_few(case: Case, backend: str) -> None:
    features, prototypes = pushed(case, torch.float32)
    count = 3
    found = topk_pool(*on_device(features, prototypes), count, precision="fp32", backend=backend)
    exact = distance_map(features.double(), prototypes.double(), backend="reference").flatten(2)
    wanted = exact.sort(2).values[:, :, :count]
    rtol, atol = TOLERANCE[torch.float32]
    torch.testing.assert_close(found.distance.cpu().double(), wanted, rtol=rtol, atol=atol)
    torch.testing.assert_close(exact.gather(2, found.patch.cpu()), wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("activation", ["log", "linear", "exp"])
@pytest.mark.parametrize("case", [*CASES, LARGE_CASES[0]], ids=str)
def test_the_mean_similarity(case: Case, activation: str, backend: str) -> None:
    # Short vectors: exp of a long distance is nothing in float32.
    features, prototypes = (0.1 * tensor for tensor in pushed(case, torch.float32))
    found: list[Tensor] = []
    expected: list[Tensor] = []
    for inputs, place, chosen in (
        ((features, prototypes), PLACE, backend),
        ((features.double(), prototypes.double()), "cpu", "reference"),
    ):
        given = [tensor.to(place, copy=True).requires_grad_() for tensor in inputs]
        mean = mean_activation(*given, activation=activation, backend=chosen)
        grad = torch.linspace(-1, 1, mean.numel(), dtype=mean.dtype, device=place).view(mean.shape)
        results = [mean.detach(), *torch.autograd.grad(mean, given, grad)]
        (found if chosen == backend else expected).extend(results)
    for one, wanted in zip(found, expected, strict=True):
        scale = float(wanted.abs().max()) or 1.0
        torch.testing.assert_close(one.cpu().double() / scale, wanted / scale, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("case", [*CASES, LARGE_CASES[0]], ids=str)
def test_all_distances(case: Case, backend: str) -> None:
    features, prototypes = pushed(case, torch.float32)
    found = distance_map(*on_device(features, prototypes), backend=backend)
    wanted = distance_map(features.double(), prototypes.double(), backend="reference")
    rtol, atol = TOLERANCE[torch.float32]
    torch.testing.assert_close(found.cpu().double(), wanted, rtol=rtol, atol=atol)
