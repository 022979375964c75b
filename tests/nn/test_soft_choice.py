"""The soft choices of the slots: what is drawn, what is computed, and what it must not do."""

from __future__ import annotations

import math

import pytest
import torch

from protokern.nn import SlotAssignment
from protokern.nn.slots import TEMPERATURE, gumbel_noise

K, P, S = 3, 7, 4


def make(scale: float, dtype: torch.dtype = torch.float32) -> SlotAssignment:
    torch.manual_seed(0)
    assignment = SlotAssignment(K, P, S).to(dtype)
    assignment.set_progress(1)
    assignment.scale.fill_(scale)
    return assignment


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_value_and_gradient_are_those_of_the_softmax(dtype: torch.dtype, is_training: bool) -> None:
    assignment = make(5.0, dtype).train(is_training)
    torch.manual_seed(1)
    shares = assignment()
    torch.manual_seed(1)
    noise = gumbel_noise(assignment.presence_logits.transpose(1, 2)).transpose(1, 2) if is_training else 0
    wanted = ((assignment.presence_logits * assignment.scale + noise) / TEMPERATURE).softmax(dim=1)
    torch.testing.assert_close(shares, wanted)
    grad = torch.randn(K, P, S, dtype=dtype)
    got, expected = (torch.autograd.grad(value, assignment.presence_logits, grad)[0] for value in (shares, wanted))
    torch.testing.assert_close(got, expected)
    assert shares.dtype == dtype


def test_every_call_in_training_draws_anew_and_none_in_evaluation() -> None:
    assignment = make(5.0)
    assert not torch.equal(assignment(), assignment())
    assignment.eval()
    assert torch.equal(assignment(), assignment())


def test_shares_that_count_for_nothing_are_zero_and_none_is_denormal() -> None:
    assignment = make(1.0).eval()
    with torch.no_grad():
        assignment.presence_logits.copy_(torch.linspace(0, -60, P)[:, None].expand(K, P, S))
    shares = assignment()
    least = math.sqrt(torch.finfo(torch.float32).tiny)
    assert ((shares == 0) | (shares > least)).all()
    assert (shares[:, 0] > 0).all()
    assert (shares[:, -1] == 0).all()
    (grad,) = torch.autograd.grad(shares, assignment.presence_logits, torch.randn(K, P, S))
    assert (grad[:, -1] == 0).all()
    assert grad.isfinite().all()


def test_noise_is_standard_gumbel() -> None:
    torch.manual_seed(0)
    noise = gumbel_noise(torch.zeros(1000, 1000)).double()
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.02)
    for value in (-1.0, 0.0, 1.0, 3.0, 8.0):
        share = (noise <= value).double().mean().item()
        assert share == pytest.approx(math.exp(-math.exp(-value)), abs=3e-3)


def test_the_lowest_draw_of_the_generator_gives_a_share_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assignment = make(1.0).train()
    draws = torch.full((K, S, P), 0.5)
    draws[..., 2] = 0
    monkeypatch.setattr(torch, "rand", lambda *_, **__: draws.clone())
    shares = assignment()
    assert (shares[:, 2] == 0).all()
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(K, S))


def test_logits_in_half_precision_get_noise_in_single_precision() -> None:
    torch.manual_seed(0)
    noise = gumbel_noise(torch.zeros(100, 100, dtype=torch.bfloat16))
    assert noise.dtype == torch.float32
    assert len(noise.unique()) > 9000
    assert make(5.0, torch.bfloat16)().isfinite().all()


def test_it_compiles() -> None:
    assignment = make(5.0).eval()
    compiled = torch.compile(assignment, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(), assignment())
    got, wanted = (
        torch.autograd.grad(f().square().sum(), assignment.presence_logits)[0] for f in (compiled, assignment)
    )
    torch.testing.assert_close(got, wanted)
    assert wanted.any()
