"""Losses against the original's formula, written out plainly here, and against cases computed by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protokern.losses import (
    Labels,
    LossCoefficients,
    average_separation,
    chosen_prototypes,
    cluster_cost,
    last_layer_l1,
    mixed_cross_entropy,
    orthogonality_cost,
    protopnet_loss,
    protopool_loss,
    released_orthogonality_cost,
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
    identity = F.one_hot(torch.tensor(owners), classes).double()
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
    assert LossCoefficients() == LossCoefficients(
        cross_entropy=1, cluster=0.8, separation=-0.08, l1=1e-4, orthogonality=1
    )


def test_total_is_the_weighted_sum_of_its_parts():
    torch.manual_seed(0)
    output = SimpleNamespace(logits=torch.randn(2, 2), min_distances=DISTANCES)
    weight = torch.randn(2, 4)
    total, terms = protopnet_loss(output, Labels(LABELS), IDENTITY, weight, max_distance=4)
    assert list(terms) == ["cross_entropy", "cluster", "separation", "l1"]
    assert terms["cluster"].item() == (0.25 + 4) / 2
    assert terms["separation"].item() == 2
    assert terms["l1"].item() == pytest.approx((weight * (1 - IDENTITY.T)).norm(p=1).item())
    assert terms["cross_entropy"].item() == pytest.approx(F.cross_entropy(output.logits, LABELS).item())
    expected = terms["cross_entropy"] + 0.8 * terms["cluster"] - 0.08 * terms["separation"] + 1e-4 * terms["l1"]
    assert total.item() == pytest.approx(expected.item())
    chosen = LossCoefficients(cross_entropy=0, cluster=0, separation=1, l1=0)
    assert protopnet_loss(output, Labels(LABELS), IDENTITY, weight, chosen).total.item() == 2


def test_mixed_images_count_by_the_share_of_each_label():
    probability = torch.tensor([[0.5, 0.5], [0.75, 0.25]])
    logits = probability.log().requires_grad_()
    other = torch.tensor([0, 0])
    wanted = 0.75 * (math.log(2) + math.log(4)) / 2 + 0.25 * (math.log(2) + math.log(4 / 3)) / 2
    got = mixed_cross_entropy(logits, Labels(LABELS, other, 0.75))
    assert got.item() == pytest.approx(wanted)
    got.backward()
    # Each image pulls by the difference between its share of each class and its probability, over the two images.
    shares = torch.tensor([[1.0, 0], [0.25, 0.75]])
    torch.testing.assert_close(logits.grad, (probability - shares) / 2)


@pytest.mark.parametrize("labels", [Labels(LABELS), Labels(LABELS, 1 - LABELS, 1.0), Labels(1 - LABELS, LABELS, 0.0)])
def test_images_that_are_not_mixed_count_as_ever(labels):
    logits = torch.tensor([[0.5, 2.0], [1.0, -1.0]])
    assert mixed_cross_entropy(logits, labels).item() == pytest.approx(F.cross_entropy(logits, LABELS).item())


def test_label_smoothing_reaches_both_labels():
    logits, other = torch.tensor([[0.5, 2.0], [1.0, -1.0]]), torch.tensor([1, 1])
    one, two = (F.cross_entropy(logits, own, label_smoothing=0.2) for own in (LABELS, other))
    got = mixed_cross_entropy(logits, Labels(LABELS, other, 0.3), label_smoothing=0.2)
    assert got.item() == pytest.approx(0.3 * one.item() + 0.7 * two.item())


def test_cluster_and_separation_take_the_images_own_label():
    output = SimpleNamespace(logits=torch.randn(2, 2), min_distances=DISTANCES)
    labels = Labels(LABELS, 1 - LABELS, 0.3)
    terms = protopnet_loss(output, labels, IDENTITY, torch.zeros(2, 4)).terms
    assert terms["cluster"].item() == (0.25 + 6) / 2
    assert terms["separation"].item() == (3 + 1) / 2


@pytest.mark.parametrize("cost", [cluster_cost, separation_cost, average_separation])
def test_shapes_must_agree(cost):
    message = r"min_distances: must have shape \(B, P\) = \(3, 4\) to match labels \(3,\) .*; got \(2, 4\). Give labels"
    with pytest.raises(ValueError, match=message):
        cost(DISTANCES, torch.tensor([0, 1, 0]), IDENTITY)


def test_weight_shape_must_agree():
    with pytest.raises(ValueError, match=r"weight: must have shape \(K, P\) to match .*\(4, 2\); got \(4, 2\)."):
        last_layer_l1(torch.ones(4, 2), IDENTITY)


# ProtoPool: three prototypes, two slots; class 0 has the prototypes 0 and 1, class 1 has prototype 2 twice.
ASSIGNMENT = F.one_hot(torch.tensor([[0, 1], [2, 2]]), 3).transpose(1, 2).float()


def test_chosen_prototypes_of_final_choices_are_those_in_the_slots():
    chosen = chosen_prototypes(ASSIGNMENT, torch.tensor([1, 0]))
    assert chosen.tolist() == [[False, False, True], [True, True, False]]


def test_chosen_prototypes_of_soft_choices_have_the_largest_sums():
    first, second = [0.5, 0.3, 0.2, 0.0], [0.0, 0.1, 0.3, 0.6]  # in sum 0.5, 0.4, 0.5, 0.6
    assignment = torch.tensor([first, second]).T[None].requires_grad_()  # (1, 4, 2)
    chosen = chosen_prototypes(assignment, torch.tensor([0]))
    assert chosen.sum() == 2
    assert chosen[0, 3]
    assert not chosen[0, 1]
    assert not chosen.requires_grad


def test_a_class_without_any_prototype_has_chosen_none():
    assert not chosen_prototypes(torch.zeros(1, 3, 2), torch.tensor([0])).any()


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_orthogonality_is_0_for_different_slots_and_slots_less_1_for_equal_ones(slots):
    different = torch.eye(4)[None, :, :slots].repeat(5, 1, 1)
    assert orthogonality_cost(different).item() == 0
    equal = torch.tensor([0.1, 0.2, 0.3, 0.4]).repeat(5, slots, 1).transpose(1, 2)
    assert orthogonality_cost(equal).item() == pytest.approx(slots - 1)


def test_orthogonality_by_hand():
    # The slots of class 0 have a cosine of 0.6, those of class 1 are different: 2 * 0.6 over 2 * 2 slots.
    assignment = torch.tensor([[[1.0, 0.6], [0, 0.8]], [[1, 0], [0, 1]]])
    assert orthogonality_cost(assignment).item() == pytest.approx(0.3)
    # An empty slot is like no other.
    assert orthogonality_cost(torch.tensor([[[1.0, 0], [0, 0]]])).item() == 0


def test_opposite_logits_are_counted_with_their_sign_by_the_release_only():
    vectors = torch.tensor([[[1.0, -1.0], [2.0, -2.0]]])
    assert orthogonality_cost(vectors).item() == pytest.approx(1)
    assert released_orthogonality_cost(vectors).item() == pytest.approx(-1)


def released_pool_loss(output, labels, presence, assignment, weight, identity, max_distance):
    """The total of the released program: masks of the largest sums, cosines of the raw logits, all with their clamp."""
    num_classes, num_prototypes, slots = presence.shape

    def distance_cost(share, count):
        total = share.sum(dim=-1).detach()
        mask = torch.zeros_like(total).scatter_(1, torch.topk(total, count, dim=1).indices, 1)
        return (max_distance - ((max_distance - output.min_distances) * mask).max(dim=1).values).mean()

    cross_entropy = labels.share * F.cross_entropy(output.logits, labels.own)
    cross_entropy = cross_entropy + (1 - labels.share) * F.cross_entropy(output.logits, labels.mixed_in)
    cosines = F.cosine_similarity(presence.unsqueeze(2), presence.unsqueeze(-1), dim=1)
    orthogonality = cosines.sum() / (slots * num_classes) - 1
    cluster = distance_cost(assignment[labels.own], slots)
    separation = distance_cost(1 - assignment[labels.own], num_prototypes - slots)
    l1 = (weight * (1 - identity.T)).norm(p=1)
    return cross_entropy + 0.8 * cluster - 0.08 * separation + 1e-4 * l1 + orthogonality


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e6], ids=["soft", "sharp", "final"])
@pytest.mark.parametrize(("prototypes", "slots"), [(9, 3), (4, 4), (5, 1)])
def test_compat_equals_the_release_in_value_and_gradient(prototypes, slots, scale):
    generator = torch.Generator().manual_seed(0)
    classes, batch = 4, 6
    identity = F.one_hot(torch.arange(classes * slots) // slots, classes).float()
    own, mixed_in = torch.randint(0, classes, (2, batch), generator=generator)
    labels = Labels(own, mixed_in, 0.7)
    leaves = [
        torch.randn(batch, classes, generator=generator),
        5 * torch.rand(batch, prototypes, generator=generator),  # the bound is 4
        torch.randn(classes, prototypes, slots, generator=generator),
        torch.randn(classes, classes * slots, generator=generator),
    ]
    results = []
    for compute in (protopool_loss, released_pool_loss):
        logits, distances, presence, weight = (leaf.clone().requires_grad_() for leaf in leaves)
        output = SimpleNamespace(logits=logits, min_distances=distances)
        assignment = (scale * presence).softmax(dim=1)
        if compute is protopool_loss:
            total = protopool_loss(
                output, labels, assignment, weight, identity, presence_logits=presence, max_distance=4.0
            ).total
        else:
            total = released_pool_loss(output, labels, presence, assignment, weight, identity, 4.0)
        results.append((total, *torch.autograd.grad(total, (logits, distances, presence, weight))))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", range(5))
def test_compat_rounds_nearly_unused_prototypes_as_the_release_does(first):
    # One prototype has a share below the rounding of 3, but not of 1, in each of 3 slots; two have none at all. Those
    # two are the P - S = 2 others, wherever the first one stands.
    assignment = torch.tensor([3.5e-8, 0.0, 0.0, 0.5, 0.5]).roll(first)[None, :, None].expand(1, 5, 3)
    distances = torch.tensor([[0.25, 1.0, 2.0, 3.0, 3.0]]).roll(first, 1)
    output, labels = SimpleNamespace(logits=torch.zeros(1, 1), min_distances=distances), Labels(torch.tensor([0]))
    presence = torch.zeros(1, 5, 3)
    loss = protopool_loss(output, labels, assignment, None, torch.ones(3, 1), presence_logits=presence, max_distance=4)
    assert loss.terms["separation"].item() == 1


def test_total_of_protopool_is_the_weighted_sum_of_its_parts():
    distances = torch.tensor([[0.5, 0.25, 3.0], [1.0, 2.0, 8.0]])
    output = SimpleNamespace(logits=torch.randn(2, 2), min_distances=distances)
    identity = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    weight = torch.tensor([[1.0, 1, 0.5, -0.25], [0, 2, 1, 1]])
    labels = Labels(LABELS)
    total, terms = protopool_loss(output, labels, ASSIGNMENT, weight, identity)
    assert terms["cluster"].item() == (0.25 + 8) / 2
    assert terms["separation"].item() == (3 + 1) / 2
    assert terms["orthogonality"].item() == 0.5  # class 1 has one prototype in both slots: 2 over 2 * 2 slots
    assert terms["l1"].item() == 0.5 + 0.25 + 2
    assert terms["cross_entropy"].item() == pytest.approx(F.cross_entropy(output.logits, LABELS).item())
    wanted = terms["cross_entropy"].item() + 0.8 * 4.125 - 0.08 * 2 + 1e-4 * 2.75 + 0.5
    assert total.item() == pytest.approx(wanted)
    coefficients = LossCoefficients(cross_entropy=0, cluster=0, separation=0, l1=0, orthogonality=2)
    assert protopool_loss(output, labels, ASSIGNMENT, weight, identity, coefficients).total.item() == 1
    assert "l1" not in protopool_loss(output, labels, ASSIGNMENT, None, identity).terms


@pytest.mark.parametrize("compat", [False, True])
def test_a_pool_pruned_below_the_number_of_slots_has_a_finite_loss(compat):
    output = SimpleNamespace(logits=torch.zeros(2, 2), min_distances=torch.tensor([[0.5], [2.0]]))
    assignment = torch.zeros(2, 1, 3)
    assignment[0, 0, 1] = 1  # class 0 has the only prototype in one of its slots, class 1 has none
    presence = torch.randn(2, 1, 3) if compat else None
    identity = torch.ones(6, 2)
    loss = protopool_loss(output, Labels(LABELS), assignment, None, identity, presence_logits=presence, max_distance=8)
    assert loss.total.isfinite()
    assert loss.terms["cluster"].item() == ((0.5 + 2) / 2 if compat else (0.5 + 8) / 2)


def test_the_orthogonality_teaches_the_choices_and_the_distances_do_not():
    presence = torch.randn(2, 3, 2, requires_grad=True)
    assignment = presence.softmax(dim=1)
    output = SimpleNamespace(logits=torch.zeros(2, 2), min_distances=torch.rand(2, 3, requires_grad=True))
    _, terms = protopool_loss(output, Labels(LABELS), assignment, None, torch.ones(4, 2))
    assert terms["orthogonality"].requires_grad
    for name in ("cluster", "separation"):
        assert torch.autograd.grad(terms[name], presence, allow_unused=True, retain_graph=True)[0] is None


def test_shapes_of_protopool_must_agree():
    output = SimpleNamespace(logits=torch.zeros(2, 2), min_distances=torch.rand(2, 4))
    message = r"min_distances: must have shape \(B, P\) = \(2, 3\) to match labels and assignment; got \(2, 4\)\. Give"
    with pytest.raises(ValueError, match=message):
        protopool_loss(output, Labels(LABELS), ASSIGNMENT, None, torch.ones(4, 2))
