"""The dot metric by hand: negative values, the bias, weights, what is refused; the rest is in the contract."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from protokern import distance_at, distance_map, mean_activation, min_distance, prototype_pool, topk_pool

from . import oracle
from .cases import SMALL, SMALL_PATCHES, TOLERANCE, Case, gradient_tolerance
from .interpreted import interpreter_runs
from .public_ops import OPS, outputs
from .weighted import weights_of, wide

pytestmark = interpreter_runs()


def test_three_patches_and_two_prototypes_by_hand(backend: str) -> None:
    features = torch.tensor([[[[1.0, 3.0, -2.0]], [[0.0, 4.0, 1.0]]]]).requires_grad_()  # (1, 0), (3, 4), (-2, 1)
    prototypes = torch.tensor([[3.0, 1.0], [-1.0, -1.0]]).requires_grad_()
    bias = torch.tensor([0.5, 10.0]).requires_grad_()
    # Products 3, 13, -5 and -1, -7, 1.
    result = prototype_pool(features, prototypes, activation="linear", metric="dot", bias=bias, backend=backend)
    assert result.patch.tolist() == [[1, 2]]
    assert result.activation.tolist() == [[13.5, 11.0]]
    assert result.min_distance.tolist() == [[-13.5, -11.0]]
    (result.activation * torch.tensor([[1.0, 10.0]])).sum().backward()
    assert features.grad is not None
    assert prototypes.grad is not None
    assert features.grad.tolist() == [[[[0.0, 3.0, -10.0]], [[0.0, 1.0, -10.0]]]]
    assert prototypes.grad.tolist() == [[3.0, 4.0], [-20.0, 10.0]]
    assert bias.grad is not None
    assert bias.grad.tolist() == [1.0, 10.0]


@pytest.mark.parametrize("op", ["min_distance", "topk_pool"])
def test_where_all_products_are_negative_the_largest_wins(op: str, backend: str) -> None:
    features = torch.full((1, 3, 2, 2), 1.0)
    features[0, :, 1, 0] = 0.25
    prototypes = torch.full((2, 3), -1.0)
    if op == "min_distance":
        value, patch = min_distance(features, prototypes, metric="dot", backend=backend)
        assert value.tolist() == [[0.75, 0.75]]
        assert patch.tolist() == [[2, 2]]
        return
    few = topk_pool(features, prototypes, 3, activation="linear", metric="dot", backend=backend)
    assert few.distance.tolist() == [[[0.75, 3.0, 3.0]] * 2]
    assert few.patch.tolist() == [[[2, 0, 1]] * 2]
    assert few.activation.tolist() == [[-2.25, -2.25]]


def with_bias(op: str, x: Tensor, p: Tensor, bias: Tensor | None, weight: Tensor | None, backend: str) -> list[Tensor]:
    """The floating-point outputs of an op."""
    options: dict[str, Any] = {"metric": "dot", "bias": bias, "backend": backend}
    if op == "mean_activation":
        return [mean_activation(x, p, activation="linear", **options)]
    options["patch_weight"] = weight
    if op == "distance_at":
        return [distance_at(x, p, torch.full((len(x), len(p), 2), 1), **options)]
    if op == "distance_map":
        return [distance_map(x, p, prototype_index=torch.tensor([2, 0, 2]), **options)]
    if op == "min_distance":
        return [min_distance(x, p, **options).value]
    if op == "topk_pool":
        return list(topk_pool(x, p, 2, activation="linear", **options)[:2])
    return list(prototype_pool(x, p, activation="linear", **options)[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES], ids=str)
def test_the_bias_is_added_to_every_score(
    case: Case, op: str, weighted: bool, dtype: torch.dtype, backend: str
) -> None:
    features, prototypes = case.inputs(dtype)
    bias = torch.linspace(-5, 5, case.prototypes, dtype=torch.float64).to(dtype)
    leaves = [tensor.requires_grad_() for tensor in (features, prototypes, bias)]
    weight = weights_of(case, wide(dtype), zeros=False) if weighted and op != "mean_activation" else None
    x, p, b = (tensor.detach().double().requires_grad_() for tensor in leaves)
    whole = oracle.distance_map(x, p, "dot")
    if weight is not None:
        whole = oracle.weigh(whole, weight, "dot")
    whole = whole - b[:, None, None]
    nearest = whole.flatten(2).sort(-1).values
    truth = {
        "mean_activation": [-whole.mean((2, 3))],
        "distance_at": [whole.flatten(2)[..., 1:2].expand(-1, -1, 2)],
        "distance_map": [whole[:, [2, 0, 2]]],
        "min_distance": [nearest[..., 0]],
        "topk_pool": [-nearest[..., :2].mean(-1), nearest[..., :2]],
        "prototype_pool": [-nearest[..., 0], nearest[..., 0]],
    }[op]
    found = with_bias(op, leaves[0], leaves[1], leaves[2], weight, backend)
    rtol, atol = TOLERANCE[dtype]
    for output, wanted in zip(found, truth, strict=True):
        assert output.dtype == wide(dtype)
        torch.testing.assert_close(output.double(), wanted, rtol=rtol, atol=10 * atol)  # of terms of up to ten
    slopes = [torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape) for out in found]
    grads = torch.autograd.grad(found, leaves, slopes)
    wanted_grads = torch.autograd.grad(truth, (x, p, b), [slope.double() for slope in slopes])
    rtol, atol = gradient_tolerance(dtype)
    for grad, wanted in zip(grads, wanted_grads, strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad.double(), wanted, rtol=rtol, atol=atol * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("case", [Case(3, 29, 6, 5, 40), Case(2, 6, 6, 5, 20, (2, 3))], ids=str)
def test_the_value_is_that_of_the_map_bit_for_bit(case: Case, with_weights: bool, backend: str) -> None:
    features, prototypes = case.inputs()
    options: dict[str, Any] = {"metric": "dot", "bias": torch.randn(case.prototypes), "backend": backend}
    options["patch_weight"] = weights_of(case) if with_weights else None
    value, patch = min_distance(features, prototypes, **options)
    whole = distance_map(features, prototypes, **options).flatten(2)
    assert torch.equal(value, whole.gather(2, patch[..., None])[..., 0])
    assert torch.equal(value, whole.amin(2))
    few = topk_pool(features, prototypes, 3, activation="linear", **options)
    assert torch.equal(few.distance, whole.gather(2, few.patch))
    assert torch.equal(few.distance, whole.sort(stable=True).values[..., :3])
    assert torch.equal(distance_at(features, prototypes, few.patch, **options), few.distance)


def test_long_patches_beside_short_ones_do_not_hide_a_near_tie(backend: str) -> None:
    """The doubt of a search grows with the longest patch of the image, however short the winner is."""
    generator = torch.Generator().manual_seed(3)
    features = torch.rand(2, 64, 6, 6, generator=generator) * 1e-2
    prototypes = torch.rand(30, 64, generator=generator)
    features[:, 0::2, 3, 3], features[:, 1::2, 3, 3] = 3e4, -3e4
    prototypes[:, 1::2] = prototypes[:, 0::2]  # so that what is long is hardly projected
    value, patch = min_distance(features, prototypes, metric="dot", backend=backend)
    whole = distance_map(features, prototypes, metric="dot", backend=backend).flatten(2)
    assert torch.equal(value, whole.amin(2))
    assert torch.equal(patch, (whole == whole.amin(2, keepdim=True)).to(torch.int8).argmax(2))


def test_sums_that_overflow_on_both_sides_are_never_the_nearest(backend: str) -> None:
    features = torch.zeros(1, 64, 1, 3)
    features[0, :, 0, 0] = 1e30
    features[0, 0::2, 0, 1], features[0, 1::2, 0, 1] = 1e30, -1e30
    prototypes = torch.stack([torch.full((64,), 1e30), torch.full((64,), -1e30), torch.zeros(64)])
    value, patch = min_distance(features, prototypes, metric="dot", backend=backend)
    assert value[0].tolist() == [-torch.inf, 0.0, 0.0]
    assert patch[0].tolist() == [0, 2, 0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bias_that_is_not_finite_gives_nan(bad: float, backend: str) -> None:
    features, prototypes = SMALL.inputs()
    bias = torch.zeros(7)
    bias[3] = bad
    for name in OPS:
        for output in with_bias(name, features, prototypes, bias, None, backend):
            index = torch.arange(7) if output.shape[1] == 7 else torch.tensor([2, 0, 2])
            bad_columns = output.isnan().flatten(2).all(2) if output.dim() > 2 else output.isnan()
            assert torch.equal(bad_columns, (index == 3).expand(2, -1))


WRONG: dict[str, tuple[object, type[Exception], str]] = {
    "a list": ([0.0] * 7, TypeError, r"bias: must be a torch\.Tensor or None; got list\."),
    "too few": (torch.zeros(6), ValueError, r"bias: must have shape \(7,\), a number per prototype; got \(6,\)\."),
    "a matrix": (torch.zeros(7, 1), ValueError, r"bias: must have shape \(7,\), .*; got \(7, 1\)\."),
    "whole numbers": (
        torch.zeros(7, dtype=torch.int64),
        ValueError,
        r"bias: must be torch\.float32 to match prototypes; got torch\.int64\. Convert it\.",
    ),
    "another device": (
        torch.zeros(7, device="meta"),
        ValueError,
        r"bias: must be on the device of prototypes, cpu; got meta\. Move it\.",
    ),
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_bias(kind: str, op: str) -> None:
    bias, error, message = WRONG[kind]
    with pytest.raises(error, match=f"^{message}$"):
        outputs(OPS[op](*SMALL.inputs(), metric="dot", bias=bias))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("metric", oracle.DIFFERENCES)
def test_other_metrics_take_no_bias(metric: str, op: str) -> None:
    message = f"bias: must be None unless metric is 'dot'; got one with metric '{metric}'. Leave it out."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        outputs(OPS[op](*SMALL.inputs(), metric=metric, bias=torch.zeros(7)))


@pytest.mark.parametrize("op", ["prototype_pool", "mean_activation", "topk_pool"])
@pytest.mark.parametrize("activation", ["log", "exp", "cosine", "exp_root"])
def test_named_similarities_but_the_score_are_refused(activation: str, op: str) -> None:
    with pytest.raises(ValueError, match=rf"^activation: must not be '{activation}' unless metric is .* metric 'dot'"):
        outputs(OPS[op](*SMALL.inputs(), metric="dot", activation=activation))


def test_a_function_of_the_score_is_taken(backend: str) -> None:
    features, prototypes = SMALL.inputs()
    options: dict[str, Any] = {"metric": "dot", "bias": torch.randn(7), "backend": backend}
    found = prototype_pool(features, prototypes, activation=lambda distance: torch.relu(-distance), **options)
    assert torch.equal(found.activation, torch.relu(-found.min_distance))
    assert torch.equal(found.min_distance, min_distance(features, prototypes, **options).value)
