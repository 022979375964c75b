"""How exact each precision of a search is, on factors rounded as a GPU rounds them.

The bounds are orders of magnitude: they hold for any seed, and ten times less would not.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from . import oracle
from .rounding import full_products, rounded, search_distances, search_products, split, truncated

NUM_PROTOTYPES, NUM_PATCHES = 300, 150


@pytest.fixture(params=[0, 1], ids=["seed0", "seed1"])
def problem(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    """Prototypes (P, 128), half of them copies of patches as after a push, patches (N, 128), true distances (P, N)."""
    generator = torch.Generator().manual_seed(request.param)
    x = torch.sigmoid(torch.randn(NUM_PATCHES, 128, generator=generator))
    p = torch.sigmoid(torch.randn(NUM_PROTOTYPES, 128, generator=generator))
    p[:NUM_PATCHES] = x
    return p, x, (p.double()[:, None] - x.double()).square().sum(2)


def test_round_to_nearest() -> None:
    values = torch.tensor([1.0, 1 + 2**-11, 1 + 2**-11 - 2**-20, -1 - 2**-11, 0.0, 3.0])
    assert rounded(values, "tf32").tolist() == [1.0, 1 + 2**-10, 1.0, -1 - 2**-10, 0.0, 3.0]
    assert truncated(values, "tf32").tolist() == [1.0, 1.0, 1.0, -1.0, 0.0, 3.0]


def test_bfloat16_is_that_of_torch_but_for_ties() -> None:
    values = torch.randn(10_000)
    assert torch.equal(rounded(values, "bf16"), values.bfloat16().float())


def test_two_bfloat16_numbers_hold_sixteen_bits() -> None:
    values = torch.randn(10_000)
    high, low = split(values)
    assert ((high + low - values).abs() <= 2**-17 * values.abs()).all()


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("tf32", 1e-2), ("bf16", 1e-1)])
def test_error_of_a_score(precision: str, bound: float, problem: tuple[Tensor, Tensor, Tensor]) -> None:
    p, x, true = problem
    error = (search_distances(p, x, precision) - true).abs().max().item()
    assert bound / 100 < error < bound


def test_products_of_a_gradient_are_as_exact_as_float32_and_those_of_a_search_are_not() -> None:
    p, x = torch.randn(300, 1), torch.randn(200, 1)
    true = p.double() @ x.double().T
    error = ((full_products(p, x) - true) / true).abs().max()
    assert 2**-25 < error < 2**-20
    assert ((search_products(p, x, "fp32") - true) / true).abs().max() > 2**-18


@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.002), ("tf32", 0.02), ("bf16", 0.1)])
def test_share_of_prototypes_that_take_another_patch(
    precision: str, share: float, problem: tuple[Tensor, Tensor, Tensor]
) -> None:
    p, x, true = problem
    wrong = search_distances(p, x, precision).argmin(1) != true.argmin(1)
    assert wrong.float().mean() <= share


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("tf32", 2e-3), ("bf16", 2e-2)])
def test_a_patch_taken_instead_is_nearly_as_near(
    precision: str, bound: float, problem: tuple[Tensor, Tensor, Tensor]
) -> None:
    p, x, true = problem
    taken = true.gather(1, search_distances(p, x, precision).argmin(1, keepdim=True))[:, 0]
    nearest = true.amin(1)
    assert ((taken - nearest) <= bound * taken).all()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_value_at_the_patch_is_that_of_float32(precision: str, problem: tuple[Tensor, Tensor, Tensor]) -> None:
    p, x, true = problem
    patch = search_distances(p, x, precision).argmin(1)
    value = (x[patch] - p).square().sum(1)  # what every backend returns, whatever it searched with
    at_patch = true.gather(1, patch[:, None])[:, 0]
    torch.testing.assert_close(value.double(), at_patch, rtol=1e-5, atol=0)
    copies = value[:NUM_PATCHES]
    assert torch.equal(copies, torch.zeros_like(copies))
    similarity = oracle.activation(value.double(), "log")
    torch.testing.assert_close(similarity, oracle.activation(at_patch, "log"), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("precision", "wrong_by"), [("tf32", 0.5), ("bf16", 2.0)])
def test_the_score_itself_would_spoil_the_similarity_of_a_copy(
    precision: str, wrong_by: float, problem: tuple[Tensor, Tensor, Tensor]
) -> None:
    p, x, _ = problem
    score = search_distances(p, x, precision).amin(1)[:NUM_PATCHES].clamp_min(0)
    assert (math.log(1e4) - oracle.activation(score, "log")).max() > wrong_by


def test_cut_factors_are_several_times_worse_than_rounded_ones(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    p, x, _ = problem
    true = p.double() @ x.double().T
    errors = [
        (change(p, "tf32").double() @ change(x, "tf32").double().T - true).abs().max()
        for change in (rounded, truncated)
    ]
    assert errors[1] > 4 * errors[0]


def test_an_offset_is_taken_away_before_it_costs_digits(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    p, x, true = problem
    error = (search_distances(p + 10, x + 10, "tf32") - true).abs().max()
    assert error < 1e-2
