"""Losses against the original's formula, written out plainly here, and against cases computed by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protokern.losses import (
    ProtoPNetCoefficients,
    average_separation,
    cluster_cost,
    last_layer_l1,
    protopnet_loss,
    separation_cost,
)

# Two classes with two prototypes each.
IDENTITY = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
DISTANCES = torch.tensor([[0.5, 0.25, 3.0, 4.0], [1.0, 2.0, 8.0, 6.0]])
LABELS = torch.tensor([0, 1])


def original_cost(min_distances: Tensor, labels: Tensor, identity: Tensor, max_distance: float, *, own: bool) -> Tensor:
    """The released formula: mean of max_distance - max over prototypes of (max_distance - d) * mask."""
    mask = identity[:, labels].T
    if not own:
        mask = 1 - mask
    inverted, _ = torch.max((max_distance - min_distances) * mask, dim=1)
    return torch.mean(max_distance - inverted)


def test_cluster_and_separation_by_hand():
    assert cluster_cost(DISTANCES, LABELS, IDENTITY).item() == (0.25 + 6) / 2
    assert separation_cost(DISTANCES, LABELS, IDENTITY).item() == (3 + 1) / 2
    assert average_separation(DISTANCES, LABELS, IDENTITY).item() == (3.5 + 1.5) / 2


def test_gradient_goes_to_the_nearest_prototype_only():
    distances = DISTANCES.clone().requires_grad_()
    cluster_cost(distances, LABELS, IDENTITY, max_distance=128).backward()
    assert distances.grad.tolist() == [[0, 0.5, 0, 0], [0, 0, 0, 0.5]]


def test_distances_beyond_the_bound_count_as_the_bound():
    distances = DISTANCES.clone().requires_grad_()
    cost = cluster_cost(distances, LABELS, IDENTITY, max_distance=4)
    assert cost.item() == (0.25 + 4) / 2
    cost.backward()
    assert distances.grad.tolist() == [[0, 0.5, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("own", "cost"), [(True, cluster_cost), (False, separation_cost)], ids=["cluster", "separation"]
)
@settings(max_examples=60)
@given(data=st.data())
def test_costs_equal_the_original_in_value_and_gradient(own, cost, data):
    batch, classes, prototypes = (data.draw(st.integers(1, high)) for high in (4, 4, 6))
    # Quarters up to 3 with a bound of 2: ties, distances on the bound and beyond it occur, and so do classes without
    # prototypes and data with a single class.
    distance = st.integers(0, 12).map(lambda quarter: quarter / 4)
    values = data.draw(st.lists(distance, min_size=batch * prototypes, max_size=batch * prototypes))
    owners = data.draw(st.lists(st.integers(0, classes - 1), min_size=prototypes, max_size=prototypes))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch)))
    identity = torch.nn.functional.one_hot(torch.tensor(owners), classes).double()
    ours, theirs = (torch.tensor(values).double().reshape(batch, prototypes).requires_grad_() for _ in range(2))
    got = cost(ours, labels, identity, max_distance=2.0)
    expected = original_cost(theirs, labels, identity, 2.0, own=own)
    got.backward()
    expected.backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


def test_small_distances_are_not_rounded_against_the_bound():
    cost = cluster_cost(torch.tensor([[1e-7, 9.0, 9.0, 9.0]]), torch.tensor([0]), IDENTITY, max_distance=128)
    assert cost.item() == pytest.approx(1e-7, rel=1e-6)


def test_class_without_prototypes():
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    distances = torch.tensor([[1.0, 2.0], [5.0, 6.0]]).requires_grad_()
    labels = torch.tensor([0, 2])
    assert cluster_cost(distances, labels, identity, max_distance=8).item() == (1 + 8) / 2
    cost = cluster_cost(distances, labels, identity)
    assert cost.item() == 1  # the image of class 2 is left out
    cost.backward()
    assert distances.grad.tolist() == [[1, 0], [0, 0]]


def test_no_image_with_a_candidate_costs_nothing():
    distances = torch.tensor([[1.0, 2.0]]).requires_grad_()
    cost = separation_cost(distances, torch.tensor([0]), torch.ones(2, 1))
    assert cost.item() == 0
    cost.backward()
    assert distances.grad.tolist() == [[0, 0]]
    assert average_separation(distances, torch.tensor([0]), torch.ones(2, 1)).item() == 0


def test_nan_distances_are_not_hidden():
    distances = torch.tensor([[torch.nan, 1.0, 1.0, 1.0]])
    assert cluster_cost(distances, torch.tensor([0]), IDENTITY, max_distance=4).isnan()
    assert separation_cost(distances, torch.tensor([1]), IDENTITY, max_distance=4).isnan()


def test_l1_counts_weights_to_other_classes_only():
    weight = torch.tensor([[5.0, 6.0, -0.5, 0.25], [1.0, -2.0, 7.0, 8.0]]).requires_grad_()
    norm = last_layer_l1(weight, IDENTITY)
    assert norm.item() == 0.5 + 0.25 + 1 + 2
    norm.backward()
    assert weight.grad.tolist() == [[0, 0, -1, 1], [1, -1, 0, 0]]


def test_coefficients_are_the_original_ones():
    assert ProtoPNetCoefficients() == ProtoPNetCoefficients(cross_entropy=1, cluster=0.8, separation=-0.08, l1=1e-4)


def test_total_is_the_weighted_sum_of_its_parts():
    torch.manual_seed(0)
    output = SimpleNamespace(logits=torch.randn(2, 2), min_distances=DISTANCES)
    weight = torch.randn(2, 4)
    loss = protopnet_loss(output, LABELS, IDENTITY, weight, max_distance=4)
    assert loss.cluster.item() == (0.25 + 4) / 2
    assert loss.separation.item() == 2
    assert loss.l1.item() == pytest.approx((weight * (1 - IDENTITY.T)).norm(p=1).item())
    assert loss.cross_entropy.item() == pytest.approx(torch.nn.functional.cross_entropy(output.logits, LABELS).item())
    expected = loss.cross_entropy + 0.8 * loss.cluster - 0.08 * loss.separation + 1e-4 * loss.l1
    assert loss.total.item() == pytest.approx(expected.item())
    chosen = ProtoPNetCoefficients(cross_entropy=0, cluster=0, separation=1, l1=0)
    assert protopnet_loss(output, LABELS, IDENTITY, weight, chosen).total.item() == 2


@pytest.mark.parametrize("cost", [cluster_cost, separation_cost, average_separation])
def test_shapes_must_agree(cost):
    message = r"min_distances: must have shape \(B, P\) = \(3, 4\) to match labels \(3,\) .*; got \(2, 4\). Give labels"
    with pytest.raises(ValueError, match=message):
        cost(DISTANCES, torch.tensor([0, 1, 0]), IDENTITY)


def test_weight_shape_must_agree():
    with pytest.raises(ValueError, match=r"weight: must have shape \(K, P\) to match .*\(4, 2\); got \(4, 2\)."):
        last_layer_l1(torch.ones(4, 2), IDENTITY)
