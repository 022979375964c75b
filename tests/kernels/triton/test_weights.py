"""The Triton searches with weights of the patches: every path gives what a plain loop over the patches gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from protokern.kernels.metric import METRICS
from protokern.kernels.min_distance import triton_launch
from protokern.kernels.topk_pool import triton_launch as topk_launch
from protokern.kernels.triton_common.configs import Config
from protokern.kernels.triton_common.weights import prepare_weights

from .. import oracle
from ..cases import Case

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]
# Two tiles of patches, two of channels, and a part of each.
ODD = Case(2, 21, 3, 7, 5)
ODD_PATCHES = Case(2, 3, 4, 5, 3, (2, 3))
NAN = float("nan")
# Name of a path to the answer, and what leads there: fields of the tiles, and names of triton_launch with values.
PATHS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "operands": ({"block_n": 16, "path": "operands"}, {}),
    "split": ({"block_n": 16, "path": "operands"}, {"num_splits": lambda *_: 100}),
    "streamed": ({"block_n": 16, "block_d": 16, "path": "operands"}, {}),
    "in place": ({"block_n": 16, "block_d": 16, "path": "strided"}, {}),
    "direct": ({}, {"LARGEST_OFFSET": 0}),
}


@pytest.fixture(autouse=True)
def interpreted() -> None:
    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets every search take a path."""
    original = triton_launch.search_config

    def take_path(name: str) -> None:
        fields, names = PATHS[name]

        def changed(*args: Any) -> Config:
            return replace(original(*args), **fields)

        monkeypatch.setattr(triton_launch, "search_config", changed)
        for key, value in names.items():
            monkeypatch.setattr(triton_launch, key, value)

    return take_path


def grid_of(case: Case) -> tuple[int, int, int]:
    height, width = case.patch or (1, 1)
    return case.batch, case.height - height + 1, case.width - width + 1


def random_weight(case: Case, dtype: torch.dtype = torch.float32) -> Tensor:
    """A third zeros, some ones, the others in between; very small ones among them."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.rand(grid_of(case), generator=generator, dtype=torch.float64)
    weight = torch.where(weight < 0.3, 0, torch.where(weight > 0.9, 1, weight))
    weight.view(-1)[::7] *= 1e-6
    return weight.to(dtype)


def weighted_map(features: Tensor, prototypes: Tensor, weight: Tensor, metric: str) -> Tensor:
    """(B, P, N) in float64, by the definition; inf where the weight is 0."""
    distance = oracle.distance_map(features, prototypes, metric).flatten(2)
    w = weight.double().flatten(1)[:, None]
    weighted = {"cosine": (1 - w) + w * distance, "sqeuclidean": distance - w.log(), "dot": w * distance}[metric]
    return weighted.masked_fill(w == 0, torch.inf)


def search(
    features: Tensor, prototypes: Tensor, metric: str, weight: Tensor | None, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    return triton_launch.min_distance(features, prototypes, metric, precision, weight)


def paths_of(metric: str) -> list[str]:
    return [name for name in PATHS if name != "in place" or metric == "sqeuclidean"]


EVERY_PATH = [(metric, path) for metric in METRICS for path in paths_of(metric)]


@pytest.mark.parametrize(("metric", "path"), EVERY_PATH)
def test_the_answer_is_that_of_the_definition(metric: str, path: str, take: Callable[[str], None]) -> None:
    take(path)
    inputs, weight = ODD.inputs(), random_weight(ODD)
    wanted = weighted_map(*inputs, weight, metric)
    value, patch = search(*inputs, metric, weight)
    torch.testing.assert_close(value.double(), wanted.amin(2), rtol=2e-5, atol=2e-6)
    assert torch.equal(patch, wanted.argmin(2))
    assert (weight.flatten(1).gather(1, patch) > 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_patches_of_several_cells_have_a_weight_each(metric: str, dtype: torch.dtype) -> None:
    inputs, weight = ODD_PATCHES.inputs(dtype), random_weight(ODD_PATCHES, dtype)
    wanted = weighted_map(*inputs, weight, metric)
    value, patch = search(*inputs, metric, weight)
    assert value.dtype == dtype
    rtol, atol = (2e-5, 2e-6) if dtype == torch.float32 else (1e-11, 1e-12)
    torch.testing.assert_close(value.double(), wanted.amin(2), rtol=rtol, atol=atol)
    assert torch.equal(patch, wanted.argmin(2))


@pytest.mark.parametrize(("metric", "path"), EVERY_PATH)
def test_ones_change_no_bit(metric: str, path: str, take: Callable[[str], None]) -> None:
    take(path)
    features, prototypes = ODD.inputs()
    features[0, :, 2] = features[0, :, 1]
    prototypes[3] = features[1, :, 2, 3]
    prototypes[4] = 0
    for precision in ("fp32", "bf16"):
        plain = search(features, prototypes, metric, None, precision)
        weighted = search(features, prototypes, metric, torch.ones(grid_of(ODD)), precision)
        assert torch.equal(weighted[0], plain[0])
        assert torch.equal(weighted[1], plain[1])


@pytest.mark.parametrize(("metric", "path"), EVERY_PATH)
def test_equal_weighted_distances_give_the_first_patch(metric: str, path: str, take: Callable[[str], None]) -> None:
    take(path)
    features, prototypes = ODD.inputs()
    # One row of patches, three times; first without a weight.
    features[:, :, 1] = features[:, :, 2] = features[:, :, 0]
    weight = random_weight(ODD).clamp(0.4)
    weight[:, 0] = 0
    weight[:, 2] = weight[:, 1]
    _, patch = search(features, prototypes, metric, weight)
    wanted = weighted_map(features, prototypes, weight, metric)
    assert torch.equal(patch, wanted.argmin(2))
    assert (patch // 7 == 1).all()


@pytest.mark.parametrize(("metric", "path"), EVERY_PATH)
def test_weights_that_spoil_an_image(metric: str, path: str, take: Callable[[str], None]) -> None:
    take(path)
    case = Case(7, 5, 3, 7, 4)
    features, prototypes = case.inputs()
    weight = random_weight(case) * 0.9 + 0.05
    weight[0] = 0
    weight[1, 2, 6] = NAN
    weight[2, 1, 1], weight[2, 2, 4] = -1e-3, NAN
    weight[3, 0, 5] = 1 + 1e-6
    weight[4] = 0
    weight[4, 1, 1] = NAN
    weight[5] = 0
    features[5, 3, 2, 5] = NAN
    prototypes[2, 3] = NAN
    value, patch = search(features, prototypes, metric, weight)
    others = [0, 1, 3]
    assert value[:6].isnan().all()
    assert patch[:6, others].tolist() == [[one] * 3 for one in (0, 20, 8, 5, 8, 19)]
    assert value[6].isnan().tolist() == [False, False, True, False]
    assert patch[:, 2].tolist() == [0] * 7
    wanted = weighted_map(features[6:], prototypes[others], weight[6:], metric)
    assert torch.equal(patch[6:, others], wanted.argmin(2))


@pytest.mark.parametrize(("metric", "path"), EVERY_PATH)
def test_what_overflows_leaves_a_patch_with_a_weight(metric: str, path: str, take: Callable[[str], None]) -> None:
    take(path)
    features, prototypes = ODD.inputs()
    weight = random_weight(ODD)
    weight[0, 0, :3] = 0
    weight[0, 0, 3] = 0.5
    features[0] = 1e30
    value, patch = search(features, prototypes, metric, weight)
    assert (weight.flatten(1).gather(1, patch) > 0).all()
    if metric == "sqeuclidean":
        assert value[0].isinf().all()
        assert (patch[0] == 3).all()
    assert not value.isnan().any()


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize(("metric", "path"), EVERY_PATH)
def test_huge_values_without_weight_do_not_reach_the_others(
    metric: str, path: str, precision: str, take: Callable[[str], None]
) -> None:
    take(path)
    features, prototypes = ODD.inputs()
    weight = random_weight(ODD)
    wanted = search(features, prototypes, metric, weight, precision)
    features = torch.where(weight[:, None] == 0, 7.0 if metric == "cosine" else -1e38, features)
    found = search(features, prototypes, metric, weight, precision)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("metric", METRICS)
def test_a_zero_prototype_takes_the_first_patch_with_a_weight(metric: str) -> None:
    features, prototypes = ODD.inputs()
    weight = random_weight(ODD)
    weight[:, :1] = 0
    prototypes[3] = 0
    features[:, :, 2, 2] = 0
    value, patch = search(features, prototypes, metric, weight)
    wanted = weighted_map(features, prototypes, weight, metric)
    assert torch.equal(patch, wanted.argmin(2))
    if metric == "cosine":
        assert value[:, 3].tolist() == [1.0, 1.0]


def test_strides_and_kinds_of_weights() -> None:
    inputs, weight = ODD.inputs(), random_weight(ODD).round()
    wanted = search(*inputs, "cosine", weight)
    spread = torch.stack([weight, weight - 9], -1).transpose(1, 2).contiguous().transpose(1, 2)[..., 0]
    for other in (spread, weight > 0):
        found = search(*inputs, "cosine", other)
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])
    one = weight[:1].expand_as(weight)
    again, packed = search(*inputs, "sqeuclidean", one), search(*inputs, "sqeuclidean", one.contiguous())
    assert torch.equal(again[0], packed[0])
    assert torch.equal(again[1], packed[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("metric", "activation"), [("sqeuclidean", "exp"), ("cosine", "cosine")])
def test_a_similarity_is_multiplied_with_the_weight(metric: str, activation: str, dtype: torch.dtype) -> None:
    features, prototypes = ODD.inputs(dtype)
    weight = random_weight(ODD, dtype).clamp(0.1)
    inputs = 0.2 * features, 0.2 * prototypes, metric
    found, value, patch = triton_launch.prototype_pool(*inputs, activation, 1e-4, "fp32", weight)
    nearest = search(*inputs, weight)
    assert torch.equal(value, nearest[0])
    assert torch.equal(patch, nearest[1])
    plain = oracle.activation(oracle.distance_map(*inputs), activation).flatten(2) * weight.double().flatten(1)[:, None]
    torch.testing.assert_close(found.double(), plain.amax(2), rtol=2e-5, atol=2e-6)


def test_what_a_kernel_is_told_of_weights() -> None:
    features = torch.empty(3, 2, 2, 600)
    weight = torch.zeros(3, 2, 600)
    weight[1, 1, 500], weight[2, 0, 3], weight[2, 0, 4] = 1, 1.5, 1
    for metric in METRICS:
        weights = prepare_weights(weight, features, metric)
        assert weights.factors is not None
        assert weights.first is not None
        assert weights.first.tolist() == [[2**31 - 1, 2**31 - 1], [1100, 2**31 - 1], [3, 3]]
        assert torch.equal(weights.factors.view(weight.shape), weight.log() if metric == "sqeuclidean" else weight)
    assert prepare_weights(None, features, "cosine") == (None, None)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("case", "dtype"), [(ODD, torch.float32), (ODD_PATCHES, torch.float64)], ids=str)
def test_the_few_nearest_are_those_of_the_definition(case: Case, dtype: torch.dtype, metric: str) -> None:
    features, prototypes = case.inputs(dtype)
    features[:, :, 2] = features[:, :, 1]
    weight = random_weight(case, dtype)
    weight[:, 2] = weight[:, 1]
    wanted = weighted_map(features, prototypes, weight, metric).sort(stable=True, dim=2)
    value, patch = topk_launch.topk_distance(features, prototypes, 3, metric, "fp32", weight)
    rtol, atol = (2e-5, 2e-6) if dtype == torch.float32 else (1e-11, 1e-12)
    torch.testing.assert_close(value.double(), wanted.values[..., :3], rtol=rtol, atol=atol)
    assert torch.equal(patch, wanted.indices[..., :3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_fewer_patches_with_a_weight_than_are_asked_for(metric: str, dtype: torch.dtype) -> None:
    case = Case(3, 5, 3, 3, 4)
    features, prototypes = case.inputs(dtype)
    prototypes[2, 3] = NAN
    weight = torch.zeros(grid_of(case), dtype=dtype)
    weight[0, 1, 1:] = 0.5
    weight[1, 2, 2] = 1
    value, patch = topk_launch.topk_distance(features, prototypes, 4, metric, "fp32", weight)
    for one in (0, 1, 3):
        exact = weighted_map(features, prototypes[one : one + 1], weight, metric)[:, 0].sort(1)
        torch.testing.assert_close(value[:2, one].double(), exact.values[:2, :4], rtol=2e-5, atol=2e-6)
        nearest = exact.indices[:, 0]
        assert patch[0, one].tolist() == [*exact.indices[0, :2], nearest[0], nearest[0]]
        assert patch[1, one].tolist() == [8] * 4
    assert value[:, 2].isnan().all()
    assert value[2].isnan().all()
    assert patch[2].tolist() == [[0] * 4] * 4


@pytest.mark.parametrize("metric", METRICS)
def test_ones_change_no_bit_of_the_few_nearest(metric: str) -> None:
    features, prototypes = ODD.inputs()
    features[0, :, 2] = features[0, :, 1]
    plain = topk_launch.topk_distance(features, prototypes, 3, metric, "fp32")
    weighted = topk_launch.topk_distance(features, prototypes, 3, metric, "fp32", torch.ones(grid_of(ODD)))
    assert torch.equal(weighted[0], plain[0])
    assert torch.equal(weighted[1], plain[1])
