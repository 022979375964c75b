"""The Triton search beyond the battery: every path that sizes and devices choose gives the same answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from protokern.kernels.metric import METRIC_TABLE, METRICS
from protokern.kernels.min_distance import reference, triton_launch
from protokern.kernels.triton_common.configs import Config
from protokern.kernels.triton_common.limits import KNOWN_LIMITS

from .. import oracle
from ..cases import Case

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]
ODD = Case(2, 37, 5, 7, 19)
ODD_PATCHES = Case(2, 7, 6, 5, 9, (2, 3))


@pytest.fixture(autouse=True)
def interpreted() -> None:
    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces fields of the configuration that the table gives."""

    def replace_fields(**fields: Any) -> None:
        original = triton_launch.search_config

        def changed(*args: Any) -> Config:
            return replace(original(*args), **fields)

        monkeypatch.setattr(triton_launch, "search_config", changed)

    return replace_fields


def run(case: Case, metric: str = "sqeuclidean", precision: str = "fp32") -> tuple[Tensor, Tensor]:
    return triton_launch.min_distance(*case.inputs(), metric, precision)


def assert_same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> None:
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def assert_is_reference(found: tuple[Tensor, Tensor], case: Case, metric: str) -> None:
    value, patch = reference.min_distance(*case.inputs(), metric)
    assert torch.equal(found[1], patch)
    torch.testing.assert_close(found[0], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [ODD, ODD_PATCHES], ids=str)
def test_splits_of_the_grid_change_no_bit(
    case: Case, metric: str, precision: str, monkeypatch: pytest.MonkeyPatch, tiles: Callable[..., None]
) -> None:
    tiles(block_n=16)
    results = []
    for parts in (1, 2, 100):
        monkeypatch.setattr(triton_launch, "num_splits", lambda *_, parts=parts: parts)
        results.append(run(case, metric, precision))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@pytest.mark.parametrize(
    "fields",
    [
        {"block_p": 16, "block_n": 16, "block_d": 16},
        {"block_p": 32, "block_n": 64, "block_d": 16},
        {"block_p": 64, "block_n": 32, "block_d": 64},
    ],
    ids=str,
)
@pytest.mark.parametrize("case", [ODD, ODD_PATCHES], ids=str)
def test_tiles_change_no_answer(case: Case, fields: dict[str, int], tiles: Callable[..., None]) -> None:
    tiles(**fields)
    assert_is_reference(run(case), case, "sqeuclidean")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", [ODD, ODD_PATCHES], ids=str)
def test_differences_of_all_pairs_give_the_bits_of_the_search(
    case: Case, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = run(case, metric)
    monkeypatch.setattr(triton_launch, "LARGEST_OFFSET", 0)  # as for operands that need 64-bit offsets
    assert_same(searched, run(case, metric))


@pytest.mark.parametrize("arch", [75, 80, 86, 120])
@pytest.mark.parametrize("metric", METRICS)
def test_other_devices_give_the_same_answer(arch: int, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "device_limits", lambda _: KNOWN_LIMITS[arch])
    for precision in ("fp32", "tf32", "bf16"):
        found = run(ODD, metric, precision)
        if precision == "fp32" or arch == 75:  # sm_75 multiplies in float32 whatever is asked
            assert_is_reference(found, ODD, metric)


@pytest.mark.parametrize(("precision", "bits"), [("tf32", 11), ("bf16", 8)])
@pytest.mark.parametrize("metric", METRICS)
def test_coarse_searches_are_wrong_by_no_more_than_their_rounding(metric: str, precision: str, bits: int) -> None:
    case = Case(2, 24, 9, 9, 40)
    features, prototypes = case.inputs()
    value, patch = triton_launch.min_distance(features, prototypes, metric, precision)
    distances = oracle.distance_map(features, prototypes, metric).flatten(2)
    at_patch = distances.gather(2, patch[..., None])[..., 0]
    torch.testing.assert_close(value.double(), at_patch, rtol=2e-5, atol=2e-6)
    # Half a unit in the last place on either side of a product, and two products to a decision.
    lengths = (features - 0.5).flatten(2).norm(dim=1).amax(1)[:, None] * (prototypes - 0.5).norm(dim=1)
    reach = 4 * lengths if not METRIC_TABLE[metric].is_unit else torch.full_like(lengths, 2)
    assert ((at_patch - distances.amin(2)) <= 2 * reach * 2.0**-bits).all()
    assert (patch == distances.argmin(2)).float().mean() > 0.9


@pytest.mark.parametrize("metric", METRICS)
def test_near_ties_are_settled_by_difference_forms(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, prototypes = Case(2, 16, 3, 8, 12).inputs()
    # Each patch of the last row stands in the first two again, moved by less than the products can tell.
    features[:, :, 0] = features[:, :, 2] * (1 + 2e-6)
    features[:, :, 1] = features[:, :, 2]
    undecided = []
    settle = triton_launch._settle

    def counted(*args: Any) -> None:
        undecided.append(args[-1].sum().item())
        settle(*args)

    monkeypatch.setattr(triton_launch, "_settle", counted)
    value, patch = triton_launch.min_distance(features, prototypes, metric, "fp32")
    assert undecided[0] > 0
    distances = oracle.distance_map(features, prototypes, metric).flatten(2)
    torch.testing.assert_close(distances.gather(2, patch[..., None])[..., 0], distances.amin(2), rtol=1e-6, atol=2e-7)
    assert not (patch // 8 == 2).any()  # its equal in the row above comes first
    torch.testing.assert_close(value.double(), distances.amin(2), rtol=1e-5, atol=1e-6)


def test_a_clear_winner_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.eye(16).view(1, 16, 4, 4) * 10
    undecided = []
    monkeypatch.setattr(triton_launch, "_settle", lambda *args: undecided.append(args[-1].sum().item()))
    value, patch = triton_launch.min_distance(features, torch.eye(16) * 10, "sqeuclidean", "fp32")
    assert undecided == [0]
    assert patch.tolist() == [list(range(16))]
    assert value.tolist() == [[0.0] * 16]


def test_half_inputs_are_settled_too() -> None:
    features, prototypes = Case(2, 16, 4, 4, 12).inputs(torch.float16)
    features[:, :, 3] = features[:, :, 1]
    value, patch = triton_launch.min_distance(features, prototypes, "sqeuclidean", "tf32")
    wanted = reference.min_distance(features, prototypes, "sqeuclidean")
    assert torch.equal(patch, wanted[1])
    torch.testing.assert_close(value, wanted[0], rtol=1e-5, atol=1e-6)
    assert not (patch // 4 == 3).any()


def test_huge_and_tiny_patches_in_one_image() -> None:
    features = torch.zeros(1, 4, 1, 5)
    features[0, :, 0, 0] = 1e30
    features[0, :, 0, 1] = torch.tensor([1e-30, 0, 0, 0])
    features[0, :, 0, 3] = torch.tensor([0, 3e-30, 0, 0])
    prototypes = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [1e30, 1e30, 1e30, 1e30]])
    value, patch = triton_launch.min_distance(features, prototypes, "cosine", "fp32")
    assert patch.tolist() == [[1, 3, 0]]
    torch.testing.assert_close(value, torch.zeros(1, 3), rtol=0, atol=1e-6)
    value, patch = triton_launch.min_distance(features, prototypes, "sqeuclidean", "fp32")
    assert patch.tolist() == [[1, 1, 0]]  # at distance 1 all of 1, 2, 3, so the first
    assert value.tolist() == [[1.0, 1.0, 0.0]]
