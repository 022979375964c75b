"""The Triton search that reads few prototypes' patches where they lie: the answer of the search on operands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from protokern.kernels.min_distance import reference, triton_launch
from protokern.kernels.triton_common.configs import Config
from protokern.kernels.triton_common.limits import KNOWN_LIMITS
from protokern.kernels.triton_common.operands import operand_kind, prepare_operands, prepare_prototypes

from .. import oracle
from ..cases import LAYOUTS, Case

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]
H200 = KNOWN_LIMITS[90]
ODD = Case(2, 37, 5, 7, 19)


@pytest.fixture(autouse=True)
def interpreted() -> None:
    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every search take the strided path, and none write operands of the features."""
    original = triton_launch.search_config

    def strided(*args: Any) -> Config:
        return replace(original(*args), path="strided", block_n=16, block_d=16)

    def refuse(*args: Any) -> None:
        raise AssertionError("the features are to be read in place")

    monkeypatch.setattr(triton_launch, "search_config", strided)
    monkeypatch.setattr(triton_launch, "prepare_operands", refuse)


def search(features: Tensor, prototypes: Tensor, precision: str = "fp32") -> tuple[Tensor, Tensor]:
    return triton_launch.min_distance(features, prototypes, "sqeuclidean", precision)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_answer_is_the_reference_s(in_place: None, layout: str, dtype: torch.dtype) -> None:
    features, prototypes = ODD.inputs(dtype)
    features = LAYOUTS[layout](features)
    found = search(features, prototypes)
    value, patch = reference.min_distance(features, prototypes, "sqeuclidean")
    assert torch.equal(found[1], patch)
    torch.testing.assert_close(found[0], value, rtol=1e-5, atol=1e-6)


def test_an_offset_is_taken_away(in_place: None) -> None:
    features, prototypes = ODD.inputs()
    prototypes[3] = features[1, :, 2, 4]
    value, patch = search(features + 1000, prototypes + 1000)
    assert value[1, 3] == 0
    assert patch[1, 3] == 2 * 7 + 4
    wanted = reference.min_distance(features + 1000, prototypes + 1000, "sqeuclidean")
    assert torch.equal(patch, wanted[1])


def test_splits_change_no_bit(in_place: None, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ODD.inputs()
    results = []
    for parts in (1, 2, 100):
        monkeypatch.setattr(triton_launch, "num_splits", lambda *_, parts=parts: parts)
        results.append(search(*inputs))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("precision", "bits"), [("tf32", 11), ("bf16", 8)])
def test_coarse_searches_are_wrong_by_no_more_than_their_rounding(in_place: None, precision: str, bits: int) -> None:
    features, prototypes = Case(2, 24, 9, 9, 40).inputs()
    value, patch = search(features, prototypes, precision)
    distances = oracle.distance_map(features, prototypes, "sqeuclidean").flatten(2)
    at_patch = distances.gather(2, patch[..., None])[..., 0]
    torch.testing.assert_close(value.double(), at_patch, rtol=2e-5, atol=2e-6)
    # Half a unit in the last place on either side of a product, and two products to a decision.
    lengths = (features - 0.5).flatten(2).norm(dim=1).amax(1)[:, None] * (prototypes - 0.5).norm(dim=1)
    assert ((at_patch - distances.amin(2)) <= 8 * lengths * 2.0**-bits).all()
    assert (patch == distances.argmin(2)).float().mean() > 0.9


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_what_is_not_finite_is_told(in_place: None, precision: str, bad: float) -> None:
    features, prototypes = ODD.inputs()
    features[1, 36, 2, 3] = features[1, 0, 4, 6] = bad
    prototypes[5, 7] = bad
    value, patch = search(features, prototypes, precision)
    assert value[1].isnan().all()
    assert patch[1].tolist() == [0 if one == 5 else 2 * 7 + 3 for one in range(19)]
    assert value[0].isnan().tolist() == [one == 5 for one in range(19)]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_few_prototypes_on_large_grids_are_searched_in_place(precision: str) -> None:
    def path(metric: str = "sqeuclidean", depth: int = 64, taps: int = 1, prototypes: int = 190) -> str:
        name, _ = operand_kind(H200, torch.float32, precision, metric)
        return triton_launch.search_config(
            H200, torch.float32, precision, metric, name, depth, taps, 8385, prototypes
        ).path

    assert path() == path(prototypes=512) == "strided"
    assert path(prototypes=513) == path(metric="cosine") == path(taps=4, depth=16) == "operands"


def test_prototypes_alone_get_the_operands_that_they_have_beside_features() -> None:
    features, prototypes = ODD.inputs()
    _, kind = operand_kind(H200, torch.float32, "fp32", "sqeuclidean")
    _, beside, _ = prepare_operands(features, prototypes, kind, "sqeuclidean", 16)
    alone, centre = prepare_prototypes(prototypes, kind, "sqeuclidean", 16)
    for one, other in zip(alone, beside, strict=True):
        assert one == other if isinstance(one, int) else torch.equal(one, other)
    assert centre.shape == (48,)
    assert torch.equal(centre[37:], torch.zeros(11))
    sample = prototypes[[19 * one // 16 for one in range(16)]]
    torch.testing.assert_close(centre[:37], sample.mean(0), rtol=1e-6, atol=1e-6)


def test_the_span_of_an_image_counts_its_gaps() -> None:
    features = torch.empty((3, 4, 5, 6), device="meta")
    assert triton_launch.image_span(features) == 4 * 5 * 6
    assert triton_launch.image_span(features[:, ::3, :, 1:3]) == 3 * 30 + 4 * 6 + 1 + 1
    assert triton_launch.image_span(features.expand(3, 4, 5, 6)[:, :1, :1, :1]) == 1


def test_images_too_wide_in_memory_are_not_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    features, prototypes = Case(2, 16, 40, 50, 19).inputs()
    paths = []
    monkeypatch.setattr(triton_launch, "_by_products", lambda *args: paths.append(args[8].path))
    search(features, prototypes)
    monkeypatch.setattr(triton_launch, "image_span", lambda features: 2**31)
    search(features, prototypes)
    assert paths == ["strided", "operands"]
