"""The peers compute what they are said to compute, so that a comparison with them means something."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cases import Case
from benchmarks.inputs import Inputs, make_inputs
from benchmarks.peers import PEERS, bare_product, log_activation
from benchmarks.providers import WrongAnswerError, check_answers, exact_distances

CASE = Case(name="test", images=3, depth=7, height=4, width=5, prototypes=6)
NHWC = Case(name="test", images=3, depth=7, height=4, width=5, prototypes=6, layout="channels_last")


def smallest_by_hand(inputs: Inputs) -> torch.Tensor:
    patches = inputs.features.detach().double().flatten(2).mT  # (B, N, D)
    differences = patches[:, :, None] - inputs.prototypes.detach().double()  # (B, N, P, D)
    return differences.square().sum(-1).amin(1)


@pytest.mark.parametrize("case", [CASE, NHWC], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_finds_the_smallest_distances(peer: str, case: Case) -> None:
    inputs = make_inputs(case, requires_grad=False)
    expected = smallest_by_hand(inputs)
    torch.testing.assert_close(PEERS[peer](inputs.features, inputs.prototypes).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_has_the_gradient_of_the_smallest_distance(peer: str) -> None:
    inputs = make_inputs(CASE, requires_grad=True)
    with torch.no_grad():  # no exact copies: the clamp and the root have no gradient there
        inputs.prototypes.add_(0.25)
    PEERS[peer](inputs.features, inputs.prototypes).backward(inputs.grad)
    patches = inputs.features.detach().flatten(2).mT  # (B, N, D)
    differences = patches[:, :, None] - inputs.prototypes.detach()  # (B, N, P, D)
    nearest = differences.square().sum(-1).argmin(1)  # (B, P)
    chosen = differences.gather(1, nearest[:, None, :, None].expand(-1, 1, -1, CASE.depth))[:, 0]  # (B, P, D)
    expected = (-2 * inputs.grad[:, :, None] * chosen).sum(0)
    torch.testing.assert_close(inputs.prototypes.grad, expected, atol=1e-4, rtol=1e-4)


def test_the_exact_distances_are_those_of_the_definition() -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    torch.testing.assert_close(exact_distances(inputs), smallest_by_hand(inputs), atol=1e-12, rtol=1e-12)


def test_a_wrong_answer_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    check_answers(inputs, [], ["original", "matmul", "cdist", "mm"])
    monkeypatch.setitem(PEERS, "matmul", lambda features, prototypes: PEERS["cdist"](features, prototypes) + 1e-3)
    with pytest.raises(WrongAnswerError, match=r"matmul: must be within .* of the float64 distances; got 0\.001"):
        check_answers(inputs, [], ["matmul"])


def test_the_bare_product_is_the_product() -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    patches = inputs.features.permute(0, 2, 3, 1).reshape(-1, CASE.depth)
    torch.testing.assert_close(bare_product(inputs.features, inputs.prototypes)(), patches @ inputs.prototypes.T)


def test_the_log_activation_of_an_exact_copy() -> None:
    assert float(log_activation(torch.zeros(()))) == pytest.approx(9.2103, abs=1e-4)


def test_half_of_the_prototypes_are_patches_and_the_same_for_a_seed() -> None:
    first, second = make_inputs(CASE, requires_grad=False), make_inputs(CASE, requires_grad=False)
    torch.testing.assert_close(first.features, second.features, atol=0, rtol=0)
    assert int((smallest_by_hand(first).amin(0) == 0).sum()) == CASE.prototypes // 2
