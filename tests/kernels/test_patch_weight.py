"""Weights of the patches: what every op that takes them promises on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protokern import distance_at, distance_map, mean_activation, min_distance, prototype_pool, topk_pool
from protokern.errors import BackendUnavailableError
from protokern.kernels import backends

from . import oracle
from .cases import DTYPES, SMALL, SMALL_PATCHES, TOLERANCE, Case, gradient_tolerance
from .contract import METRICS
from .nearest_contract import problems

MIDDLE = Case(3, 17, 5, 13, 49)
CASES = [Case(1, 1, 1, 1, 1), SMALL, SMALL_PATCHES, MIDDLE]
EPSILON = 0.1
NAN = float("nan")


@pytest.fixture(autouse=True)
def weighing(request: pytest.FixtureRequest) -> None:
    """Of the tests of all backends, those whose search takes weights on this device."""
    if "backend" in request.fixturenames:
        name = request.getfixturevalue("backend")
        if not backends.WEIGHING[name]:
            pytest.skip(f"the search of backend {name!r} takes no weights")


def some_patch(features: Tensor, prototypes: Tensor) -> Tensor:
    """A patch (B, P) for every pair, whatever its distance."""
    count = patches_of(features, prototypes)
    return (torch.arange(len(features))[:, None] * 5 + torch.arange(len(prototypes)) * 3) % count


def patches_of(features: Tensor, prototypes: Tensor) -> int:
    height, width = prototypes.shape[2:] or (1, 1)
    return (features.shape[2] - height + 1) * (features.shape[3] - width + 1)


def _min_distance(x: Tensor, p: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return tuple(min_distance(x, p, **options))


def _prototype_pool(x: Tensor, p: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return tuple(prototype_pool(x, p, epsilon=EPSILON, **options))


def _topk_pool(x: Tensor, p: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return tuple(topk_pool(x, p, min(2, patches_of(x, p)), epsilon=EPSILON, **options))


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


def expected(op: str, weighted: Tensor, patch: Tensor | None) -> tuple[Tensor, ...]:
    """The floating-point outputs of an op, made of float64 weighted distances (B, P, H', W') at `patch`."""
    if patch is None:
        return (weighted,)
    if op == "topk_pool":
        value = weighted.flatten(2).gather(2, patch)
        return oracle.activation(value, "log", EPSILON).mean(-1), value
    value = weighted.flatten(2).gather(2, patch[..., None])[..., 0]
    return (oracle.activation(value, "log", EPSILON), value) if op == "prototype_pool" else (value,)


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


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_equal_the_oracle(
    case: Case, metric: str, dtype: torch.dtype, op: str, backend: str
) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs(dtype))
    # A weight of 0 gives inf in a map, and no slope.
    weight = weights_of(case, wide(dtype), zeros=op in SEARCHES).requires_grad_()
    outputs = OPS[op](features, prototypes, metric=metric, backend=backend, patch_weight=weight)
    floats, patch = split(outputs)
    x, p, w = (tensor.detach().double().requires_grad_() for tensor in (features, prototypes, weight))
    weighted = oracle.weigh(oracle.distance_map(x, p, metric), w, metric)
    rtol, atol = TOLERANCE[dtype]
    if op in SEARCHES:
        assert patch is not None
        flat, chosen = weighted.detach().flatten(2), patch.view(*patch.shape[:2], -1)
        assert chosen.dtype == torch.int64
        smallest = flat.sort(-1).values[..., : chosen.shape[2]]
        torch.testing.assert_close(flat.gather(2, chosen), smallest, rtol=rtol, atol=atol)
    truth = expected(op, weighted, patch)
    for output, wanted in zip(floats, truth, strict=True):
        assert output.dtype == wide(dtype)
        torch.testing.assert_close(output.double(), wanted, rtol=rtol, atol=atol)
    slopes = [torch.randn_like(output) for output in floats]
    grads = torch.autograd.grad(floats, (features, prototypes, weight), slopes)
    wanted_grads = torch.autograd.grad(truth, (x, p, w), [slope.double() for slope in slopes])
    for grad, source, wanted in zip(grads, (features, prototypes, weight), wanted_grads, strict=True):
        assert grad.dtype == source.dtype
        assert grad.shape == source.shape
        rtol, atol = gradient_tolerance(source.dtype)
        torch.testing.assert_close(grad.double(), wanted, rtol=rtol, atol=atol * max(1.0, wanted.abs().max().item()))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES, MIDDLE], ids=str)
def test_ones_give_the_bits_of_no_weights(case: Case, metric: str, op: str, backend: str) -> None:
    features, prototypes = case.inputs()
    size = case.patch or (1, 1)
    copy = features[0, :, : size[0], : size[1]]
    prototypes[-1] = copy if case.patch else copy[:, 0, 0]
    plain = results(op, metric, backend, features, prototypes, None)
    ones = torch.ones(grid_of(case))
    assert_same_bits(results(op, metric, backend, features, prototypes, ones)[:-1], plain)
    assert_same_bits(results(op, metric, backend, features, prototypes, ones > 0), plain)


@pytest.mark.parametrize("op", SEARCHES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES, MIDDLE], ids=str)
def test_a_mask_leaves_its_patches_out(case: Case, metric: str, op: str, backend: str) -> None:
    features, prototypes = case.inputs()
    mask = weights_of(case) > 0
    nearest = min_distance(features, prototypes, metric=metric, backend="reference").patch
    mask.flatten(1)[torch.arange(case.batch), nearest[:, 0]] = False  # else chosen for one prototype at least
    whole = oracle.distance_map(features, prototypes, metric).masked_fill(~mask[:, None], torch.inf)
    got = results(op, metric, backend, features, prototypes, mask)
    floats, patch = split(tuple(got[: -2 if op != "min_distance" else 2]))
    assert patch is not None
    first = patch if patch.dim() == 2 else patch[..., 0]
    assert torch.equal(first, whole.flatten(2).argmin(2))
    assert mask.flatten(1).gather(1, patch.flatten(1)).all()
    assert all(output.isfinite().all() for output in floats)
    as_numbers = results(op, metric, backend, features, prototypes, mask.float())
    assert_same_bits(as_numbers[:-1], got)
    assert torch.equal(as_numbers[-1][~mask], torch.zeros_like(as_numbers[-1][~mask]))


@pytest.mark.parametrize("metric", METRICS)
def test_a_patch_without_weight_is_infinitely_far(metric: str, backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs())
    weight = weights_of(SMALL).requires_grad_()
    out = weight.detach() == 0
    options: dict[str, Any] = {"metric": metric, "backend": backend, "patch_weight": weight}
    whole = distance_map(features, prototypes, **options)
    assert torch.equal(whole.isinf(), out[:, None].expand_as(whole))
    patch = some_patch(features, prototypes)
    there = distance_at(features, prototypes, patch, **options)
    torch.testing.assert_close(there, whole.flatten(2).gather(2, patch[..., None])[..., 0], rtol=1e-6, atol=1e-7)
    for floats in (whole, there):
        slopes = torch.ones_like(floats)
        assert all(
            grad.isfinite().all() for grad in torch.autograd.grad(floats, (features, prototypes, weight), slopes)
        )
    (grad,) = torch.autograd.grad(distance_map(features, prototypes, **options), weight, torch.ones_like(whole))
    assert torch.equal(grad == 0, out)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_same_numbers_as_the_map(dtype: torch.dtype, metric: str, backend: str) -> None:
    case = Case(3, 29, 6, 5, 40)
    features, prototypes = case.inputs(dtype)
    options: dict[str, Any] = {"metric": metric, "backend": backend, "patch_weight": weights_of(case, dtype)}
    value, patch = min_distance(features, prototypes, **options)
    whole = distance_map(features, prototypes, **options).flatten(2)
    rtol, atol = (1e-14, 1e-15) if dtype == torch.float64 else (1e-6, 1e-7)
    torch.testing.assert_close(value, whole.gather(2, patch[..., None])[..., 0], rtol=rtol, atol=atol)
    torch.testing.assert_close(value, whole.amin(2), rtol=rtol, atol=atol)
    there = distance_at(features, prototypes, patch, **options)
    torch.testing.assert_close(there, value, rtol=rtol, atol=atol)


@pytest.mark.parametrize("op", SEARCHES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_first_patch_on_a_tie(metric: str, op: str, backend: str) -> None:
    features, prototypes = Case(3, 6, 4, 9, 20).inputs()
    features = torch.cat([features, features], 2)  # every patch of the upper half stands in the lower half again
    half = weights_of(Case(3, 6, 4, 9, 20))
    weight = torch.cat([half, half], 1)
    _, patch = split(OPS[op](features, prototypes, metric=metric, backend=backend, patch_weight=weight))
    assert patch is not None
    first = patch if patch.dim() == 2 else patch[..., 0]
    assert first.max() < 36
    if op == "topk_pool":
        assert torch.equal(patch[..., 1], first + 36)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [2, 9, 65])
def test_where_all_are_alike_the_weight_decides(size: int, metric: str, backend: str) -> None:
    vector = torch.rand(13) + 0.1
    features = vector.expand(2, size, 13).transpose(1, 2)[..., None].contiguous()
    prototypes = torch.rand(35, 13)  # at an angle below 90 degrees, so that a larger weight is nearer
    weight = torch.full((2, size, 1), 0.5)
    weight[0, 0], weight[1] = 0, 0
    weight[1, size - 1] = 0.25
    patch = min_distance(features, prototypes, metric=metric, backend=backend, patch_weight=weight).patch
    assert patch[0].eq(1).all()
    assert patch[1].eq(size - 1).all()
    weight[0, size - 1] = 0.75
    patch = min_distance(features, prototypes, metric=metric, backend=backend, patch_weight=weight).patch
    assert patch[0].eq(size - 1).all()


@pytest.mark.parametrize("metric", METRICS)
def test_three_patches_by_hand(metric: str, backend: str) -> None:
    # (2, 0), (0, 1) and (1, 1) against (1, 0): squared distances 1, 2, 1, cosines 1, 0, 0.5 ** 0.5.
    features = torch.tensor([[[[2.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]]]]).requires_grad_()
    prototypes = torch.tensor([[1.0, 0.0]])
    weight = torch.tensor([[[0.25, 1.0, 0.5]]]).requires_grad_()
    value, patch = min_distance(features, prototypes, metric=metric, backend=backend, patch_weight=weight)
    assert patch.tolist() == [[2]]
    half = 0.5**0.5
    wanted = 1 - 0.5 * half if metric == "cosine" else 1 + 0.6931472
    assert value.item() == pytest.approx(wanted, abs=1e-6)
    to_features, to_weight = torch.autograd.grad(value, (features, weight), torch.tensor([[2.0]]))
    assert to_weight.tolist()[0][0][:2] == [0.0, 0.0]
    assert to_weight[0, 0, 2].item() == pytest.approx(-2 * half if metric == "cosine" else -4, abs=1e-5)
    # Of the cosine: half of 2 (x cos / |x| - p) / |x|; of the square: 2 * 2 (x - p).
    slope = [half / 2 - half, half / 2] if metric == "cosine" else [0.0, 4.0]
    assert to_features[0, :, 0, 2].tolist() == pytest.approx(slope, abs=1e-6)
    assert torch.equal(to_features[..., :2], torch.zeros(1, 2, 1, 2))


@pytest.mark.parametrize("op", SEARCHES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [NAN, -1e-3, 1 + 1e-6, torch.inf, -torch.inf])
def test_a_weight_that_is_none_spoils_its_image(bad: float, metric: str, op: str, backend: str) -> None:
    case = Case(3, 17, 5, 4, 51)
    features, prototypes = case.inputs()
    weight = weights_of(case)
    options: dict[str, Any] = {"metric": metric, "backend": backend}
    clean = OPS[op](features, prototypes, patch_weight=weight, **options)
    weight[1, 2, 3] = weight[1, 4, 0] = bad
    prototypes[7, 2] = NAN
    others = torch.arange(51) != 7
    for output, before in zip(OPS[op](features, prototypes, patch_weight=weight, **options), clean, strict=True):
        if output.is_floating_point():
            assert output[1].isnan().all()
            assert output[:, 7].isnan().all()
        else:
            assert output[1][others].eq(2 * 4 + 3).all()
            assert output[:, 7].eq(0).all()
        for image in (0, 2):
            assert torch.equal(output[image][others], before[image][others])
    whole = distance_map(features, prototypes[others], patch_weight=weight, **options)
    assert whole.isnan().nonzero()[:, [0, 2, 3]].unique(dim=0).tolist() == [[1, 2, 3], [1, 4, 0]]


@pytest.mark.parametrize("metric", METRICS)
def test_the_first_of_bad_weights_and_bad_features(metric: str, backend: str) -> None:
    features, prototypes = Case(2, 5, 3, 3, 4).inputs()
    weight = torch.full((2, 3, 3), 0.5)
    features[0, 0, 1, 1] = features[1, 0, 0, 1] = torch.inf
    weight[0, 1, 0] = weight[1, 2, 2] = NAN
    weight[1, 0, 1] = 0  # does not hide what is not finite
    value, patch = min_distance(features, prototypes, metric=metric, backend=backend, patch_weight=weight)
    assert value.isnan().all()
    assert patch.tolist() == [[3] * 4, [1] * 4]


@pytest.mark.parametrize("op", SEARCHES)
@pytest.mark.parametrize("metric", METRICS)
def test_an_image_of_no_weight_at_all(metric: str, op: str, backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in MIDDLE.inputs())
    weight = weights_of(MIDDLE)
    options: dict[str, Any] = {"metric": metric, "backend": backend}
    clean = OPS[op](features, prototypes, patch_weight=weight, **options)
    weight[1] = 0
    weight.requires_grad_()
    outputs = OPS[op](features, prototypes, patch_weight=weight, **options)
    for output, before in zip(outputs, clean, strict=True):
        assert output[1].isnan().all() if output.is_floating_point() else output[1].eq(0).all()
        for image in (0, 2):
            assert torch.equal(output[image], before[image])
    value = split(outputs)[0][-1]
    grads = torch.autograd.grad(value[[0, 2]].sum(), (features, prototypes, weight))
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[0][1].abs().max() == 0
    assert grads[2][1].abs().max() == 0


@pytest.mark.parametrize("metric", METRICS)
def test_fewer_patches_than_asked_for(metric: str, backend: str) -> None:
    case = Case(3, 6, 3, 4, 7)
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs())
    weight = torch.zeros(3, 3, 4)
    weight[0, 1, 2] = weight[0, 2, 0] = 0.5
    weight[1, 0, 3] = weight[2] = 1
    weight.requires_grad_()
    options: dict[str, Any] = {"metric": metric, "backend": backend, "patch_weight": weight}
    activation, distance, patch = topk_pool(features, prototypes, 4, activation="linear", **options)
    nearest, first = min_distance(features, prototypes, **options)
    assert torch.equal(distance[..., 0], nearest)
    assert torch.equal(patch[..., 0], first)
    assert torch.equal(distance.isinf().sum((1, 2)), torch.tensor([14, 21, 0]))
    assert torch.equal(patch[:2, :, 2:], first[:2, :, None].expand(-1, -1, 2))
    assert set(patch[0].unique().tolist()) == {6, 8}
    torch.testing.assert_close(activation[0], -distance[0, :, :2].mean(-1))
    torch.testing.assert_close(activation[1], -distance[1, :, 0])
    grads = torch.autograd.grad(activation.sum(), (features, prototypes, weight))
    two = topk_pool(features[:1], prototypes, 2, activation="linear", metric=metric, patch_weight=weight[:1])
    one = min_distance(features[1:2], prototypes, metric=metric, patch_weight=weight[1:2])
    all_of = topk_pool(features[2:], prototypes, 4, activation="linear", metric=metric)
    wanted = two.activation.sum() - one.value.sum() + all_of.activation.sum()
    for grad, same in zip(grads[:2], torch.autograd.grad(wanted, (features, prototypes)), strict=True):
        torch.testing.assert_close(grad, same, rtol=1e-5, atol=1e-5)
    assert not grads[2][weight == 0].any()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [Case(2, 3, 2, 3, 3), Case(1, 2, 3, 4, 2, (2, 2))], ids=str)
def test_gradcheck_through_features_prototypes_and_weights(case: Case, metric: str, op: str, backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in case.inputs(torch.float64))
    weight = (weights_of(case, torch.float64, zeros=False) * 0.9).requires_grad_()
    weighted = oracle.weigh(oracle.distance_map(features, prototypes, metric), weight, metric)
    assert weighted.flatten(2).sort(-1).values[..., :3].diff(dim=-1).amin() > 1e-5  # a small step changes no choice
    assert torch.autograd.gradcheck(
        lambda x, p, w: tuple(split(OPS[op](x, p, metric=metric, backend=backend, patch_weight=w))[0]),
        (features, prototypes, weight),
    )


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("metric", METRICS)
def test_gradient_of_one_input_alone(metric: str, op: str, which: int, backend: str) -> None:
    inputs = [*SMALL.inputs(), weights_of(SMALL, zeros=op in SEARCHES)]
    every = results(op, metric, backend, inputs[0], inputs[1], inputs[2])[-3:]
    inputs[which].requires_grad_()
    floats, _ = split(OPS[op](inputs[0], inputs[1], metric=metric, backend=backend, patch_weight=inputs[2]))
    slopes = [torch.linspace(-1, 2, out.numel()).view(out.shape) for out in floats]
    (grad,) = torch.autograd.grad(floats, inputs[which], slopes)
    assert torch.equal(grad, every[which])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("metric", METRICS)
def test_same_bits_on_every_run_and_for_any_number_of_threads(metric: str, op: str, backend: str) -> None:
    case = Case(5, 19, 6, 7, 67)
    features, prototypes = case.inputs()
    weight = weights_of(case, zeros=op in SEARCHES)
    first = results(op, metric, backend, features, prototypes, weight)
    for num_threads in (2, 1):
        torch.set_num_threads(num_threads)
        assert_same_bits(results(op, metric, backend, features, prototypes, weight), first)


@pytest.mark.parametrize("metric", METRICS)
def test_each_pair_has_its_own_answer_whatever_stands_beside_it(metric: str, backend: str) -> None:
    case = Case(4, 19, 5, 5, 70)
    features, prototypes = case.inputs()
    weight = weights_of(case)
    order = torch.randperm(70)
    whole = min_distance(features, prototypes, metric=metric, backend=backend, patch_weight=weight)
    moved = min_distance(features, prototypes[order], metric=metric, backend=backend, patch_weight=weight)
    single = min_distance(features[2:3], prototypes, metric=metric, backend=backend, patch_weight=weight[2:3])
    for one, other, alone in zip(whole, moved, single, strict=True):
        assert torch.equal(one[:, order], other)
        assert torch.equal(one[2:3], alone)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES], ids=str)
@pytest.mark.parametrize("layout", ["transposed", "every_second", "expanded"])
def test_weights_of_any_strides(layout: str, case: Case, op: str, backend: str) -> None:
    features, prototypes = case.inputs()
    weight = weights_of(case, zeros=op in SEARCHES)
    if layout == "expanded":
        weight = weight[:1].contiguous()
        strided = weight.expand(case.batch, -1, -1)
        weight = strided.contiguous()
    elif layout == "transposed":
        strided = weight.mT.contiguous().mT
    else:
        strided = torch.stack([weight, weight - 9], -1).flatten(-2)[..., ::2]
    assert not strided.is_contiguous()
    plain, other = (
        OPS[op](features.requires_grad_(), prototypes.requires_grad_(), backend=backend, patch_weight=given)
        for given in (weight, strided)
    )
    assert_same_bits(list(other), list(plain))
    grads = [torch.autograd.grad(sum(out.sum() for out in split(one)[0]), features)[0] for one in (plain, other)]
    assert torch.equal(*grads)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_in_the_half_type_of_the_features(dtype: torch.dtype, metric: str, op: str, backend: str) -> None:
    features, prototypes = SMALL.inputs(dtype)
    weight = weights_of(SMALL, dtype, zeros=op in SEARCHES)
    halves = results(op, metric, backend, features, prototypes, weight)
    singles = results(op, metric, backend, features, prototypes, weight.float())
    assert halves[-1].dtype == dtype
    assert_same_bits(halves[:-1], singles[:-1])
    assert torch.equal(halves[-1], singles[-1].to(dtype))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [Case(0, 5, 4, 3, 7), Case(2, 5, 4, 3, 0), Case(0, 3, 4, 5, 6, (2, 3))], ids=str)
def test_no_images_or_no_prototypes(case: Case, metric: str, op: str, backend: str) -> None:
    inputs = [*case.inputs(), torch.full(grid_of(case), 0.5)]
    leaves = [tensor.requires_grad_() for tensor in inputs]
    outputs = OPS[op](leaves[0], leaves[1], metric=metric, backend=backend, patch_weight=leaves[2])
    assert all(output.shape[:2] == (case.batch, case.prototypes) for output in outputs)
    grads = torch.autograd.grad([output.sum() for output in split(outputs)[0]], leaves)
    for grad, source in zip(grads, leaves, strict=True):
        assert torch.equal(grad, torch.zeros_like(source))


@pytest.mark.parametrize("tiny", [1e-6, 1e-30, 1e-38])
def test_the_smallest_weights_keep_what_a_distance_can_hold(tiny: float, backend: str) -> None:
    features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs())
    weight = torch.full((2, 4, 3), tiny).requires_grad_()
    value, patch = min_distance(features, prototypes, metric="cosine", backend=backend, patch_weight=weight)
    assert ((value - 1).abs() <= 2e-6).all()
    there = oracle.distance_map(features.detach(), prototypes.detach(), "cosine")
    there = there.flatten(2).gather(2, patch[..., None])[..., 0]
    to_features, to_weight = torch.autograd.grad(value.sum(), (features, weight))
    wanted = torch.zeros(2, 12, dtype=torch.float64).scatter_add(1, patch, there - 1)
    torch.testing.assert_close(to_weight.double().flatten(1), wanted, rtol=1e-5, atol=1e-5)  # not that of 1.0 - 1.0
    assert to_features.abs().max() <= 20 * tiny
    value, patch = min_distance(features, prototypes, backend=backend, patch_weight=weight)
    plain, same = min_distance(features, prototypes, backend=backend)
    assert torch.equal(patch, same) or tiny < 1e-6  # rounding next to -log(tiny) may make a tie
    torch.testing.assert_close(value, plain - torch.tensor(tiny).log(), rtol=2e-7, atol=0)


def test_a_huge_patch_without_weight_never_comes_back(backend: str) -> None:
    features = torch.full((2, 3, 2, 3), 1e30)
    features[1] = torch.rand(3, 2, 3)
    prototypes = torch.stack([torch.full((3,), -1e30), torch.rand(3)])
    weight = torch.ones(2, 2, 3)
    weight[:, 0] = 0
    features[1, :, 0] = -1e30
    value, patch = min_distance(features, prototypes, backend=backend, patch_weight=weight)
    assert value[0].isinf().all()
    assert patch[0].tolist() == [3, 3]
    assert (patch[1] >= 3).all()
    assert value[1, 0].isinf()


@settings(max_examples=40)
@given(data=st.data())
def test_any_shape_layout_and_kind_of_values(data: st.DataObject, backend: str) -> None:
    features, prototypes, metric = data.draw(problems())
    shape = (len(features), *oracle.distance_map(features, prototypes, metric).shape[2:])
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    weight = torch.rand(shape, generator=generator, dtype=torch.float64)
    kind = data.draw(st.sampled_from(["any", "few", "mask", "small"]))
    weight = {
        "any": weight,
        "few": (weight * 4).round() / 4,
        "mask": weight.round(),
        "small": weight**20,
    }[kind]
    weight.flatten(1)[:, 0] = 1
    weight = weight.to(wide(features.dtype))
    value, patch = min_distance(features, prototypes, metric=metric, backend=backend, patch_weight=weight)
    weighted = oracle.weigh(oracle.distance_map(features, prototypes, metric), weight, metric).flatten(2)
    rtol, atol = TOLERANCE[features.dtype]
    torch.testing.assert_close(value.double(), weighted.amin(2), rtol=rtol, atol=atol)
    at_patch = weighted.gather(2, patch[..., None])[..., 0]
    torch.testing.assert_close(value.double(), at_patch, rtol=rtol, atol=atol)


def test_a_named_backend_that_cannot_weigh_is_refused_and_auto_passes_it_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "WEIGHING", {"reference": ("any",), "native": (), "triton": ()})
    features, prototypes = SMALL.inputs()
    weight = weights_of(SMALL)
    wanted = min_distance(features, prototypes, backend="reference", patch_weight=weight)
    assert_same_bits(list(min_distance(features, prototypes, patch_weight=weight)), list(wanted))
    if not backends.available_backends()["native"].available:
        pytest.skip("the C++ library is not built")
    for op in SEARCHES:
        with pytest.raises(BackendUnavailableError, match=r"^backend 'native': takes no patch_weight on cpu\. Use"):
            OPS[op](features, prototypes, backend="native", patch_weight=weight)
        OPS[op](features, prototypes, backend="native", patch_weight=None)


def test_the_mean_over_all_patches_takes_no_weights() -> None:
    with pytest.raises(TypeError, match="patch_weight"):
        mean_activation(*SMALL.inputs(), patch_weight=torch.ones(2, 4, 3))  # type: ignore[call-arg]
