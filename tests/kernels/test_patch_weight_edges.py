"""Weights of the patches that are bad, zero, tiny or few, in strange memory or of other types, on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protokern import distance_map, mean_activation, min_distance, topk_pool
from protokern.errors import BackendUnavailableError
from protokern.kernels import backends

from . import oracle
from .cases import SMALL, SMALL_PATCHES, TOLERANCE, Case
from .contract import METRICS
from .interpreted import CASES_WITH_WEIGHTS, SEARCHING_OPS, interpreter_leaves_out, interpreter_runs
from .nearest_contract import problems
from .weighted import (
    MIDDLE,
    OPS,
    SEARCHES,
    assert_same_bits,
    grid_of,
    results,
    split,
    weights_of,
    wide,
)

pytestmark = interpreter_runs(
    op=("min_distance",), case=CASES_WITH_WEIGHTS, because="the kernel of another op, or a slow case"
)

NAN = float("nan")


@pytest.mark.parametrize("op", SEARCHES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [NAN, -1e-3, 1 + 1e-6, torch.inf, -torch.inf])
@interpreter_runs(bad=(1 + 1e-6,), because="the others are told apart in tests/kernels/triton")
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
@interpreter_runs(op=SEARCHING_OPS)
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
@pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES], ids=str)
@pytest.mark.parametrize("layout", ["transposed", "every_second", "expanded"])
@interpreter_runs(layout=("transposed",), because="weights are packed before a kernel sees them")
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
@interpreter_runs(tiny=(1e-30,), because="the arithmetic is one")
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
@interpreter_leaves_out("a hundred launches")
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
        mean_activation(*SMALL.inputs(), patch_weight=torch.ones(2, 4, 3))
