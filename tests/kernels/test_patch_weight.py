"""Weights of the patches: what every op that takes them promises on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from protokern import distance_at, distance_map, min_distance

from . import oracle
from .cases import DTYPES, SMALL, SMALL_PATCHES, TOLERANCE, Case, gradient_tolerance
from .contract import METRICS
from .interpreted import CASES_WITH_WEIGHTS, SEARCHING_OPS, interpreter_leaves_out, interpreter_runs
from .weighted import (
    MIDDLE,
    OPS,
    SEARCHES,
    assert_same_bits,
    expected,
    grid_of,
    results,
    some_patch,
    split,
    weights_of,
    wide,
)

pytestmark = interpreter_runs(
    op=("min_distance",), case=CASES_WITH_WEIGHTS, because="the kernel of another op, or a slow case"
)

CASES = [Case(1, 1, 1, 1, 1), SMALL, SMALL_PATCHES, MIDDLE]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES, ids=str)
@interpreter_runs(op=SEARCHING_OPS)
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
    truth = expected(op, weighted, patch, metric)
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
@interpreter_runs(op=SEARCHING_OPS)
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
@interpreter_runs(dtype=(torch.float32,), because="float64 has one path, which the values take")
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
@interpreter_runs(size=(1, 7, 300), because="one patch, a part of a tile and many tiles are enough")
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


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
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


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [Case(2, 3, 2, 3, 3), Case(1, 2, 3, 4, 2, (2, 2))], ids=str)
@interpreter_leaves_out("hundreds of launches")
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
@interpreter_runs(metric=("sqeuclidean",), because="the metric does not decide which gradients are wanted")
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
@interpreter_leaves_out("a slow case")
def test_same_bits_on_every_run_and_for_any_number_of_threads(metric: str, op: str, backend: str) -> None:
    case = Case(5, 19, 6, 7, 67)
    features, prototypes = case.inputs()
    weight = weights_of(case, zeros=op in SEARCHES)
    first = results(op, metric, backend, features, prototypes, weight)
    for num_threads in (2, 1):
        torch.set_num_threads(num_threads)
        assert_same_bits(results(op, metric, backend, features, prototypes, weight), first)


@pytest.mark.parametrize("metric", METRICS)
@interpreter_leaves_out("a large batch")
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
