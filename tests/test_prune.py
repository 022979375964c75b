"""Pruning: hand-computed cases, unchanged contributions, and classes that would lose everything."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from protokern.models import ProtoPNet, ProtoPool
from protokern.prune import prune_by_number, prune_prototypes


def bare_model(prototypes, num_classes):
    """A model whose features are its images."""
    depth = prototypes.shape[1]
    model = ProtoPNet(
        nn.Identity(),
        num_classes,
        prototypes_per_class=len(prototypes) // num_classes,
        prototype_dim=depth,
        in_channels=depth,
    )
    model.add_on_layers = nn.Sequential()
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(prototypes)
    return model


def line_of_images(values, labels):
    """Images of one patch of depth 1."""
    return [(torch.tensor(values).reshape(-1, 1, 1, 1), torch.tensor(labels))]


def test_prototypes_near_other_classes_are_pruned():
    loader = line_of_images([0.0, 1, 2, 10, 11, 12], [0, 0, 1, 1, 1, 0])
    # Prototypes 0 and 3 (classes 0 and 1) are nearest to images 0, 1 and 2, of which two are of class 0; prototypes 1
    # and 2 (classes 0 and 1) to the images 10, 11 and 12, of which two are of class 1.
    model = bare_model(torch.tensor([[0.5], [11.0], [11], [0.25]]), 2)
    result = prune_prototypes(model, loader, k=3, threshold=2)
    assert result.own_class_count.tolist() == [2, 1, 2, 1]
    assert result.kept.tolist() == [0, 2]
    assert result.pruned.tolist() == [1, 3]
    assert result.spared.tolist() == []
    assert model.prototype_layer.prototypes.tolist() == [[0.5], [11.0]]
    assert model.class_identity.tolist() == [[1, 0], [0, 1]]
    assert model.last_layer.weight.tolist() == [[1, -0.5], [-0.5, 1]]


def test_an_image_counts_once_however_many_near_patches_it_has():
    images = torch.tensor([[0.0, 0, 0], [1, 50, 50], [2, 50, 50]]).reshape(3, 1, 1, 3)
    model = bare_model(torch.tensor([[0.0], [50]]), 2)
    result = prune_prototypes(model, [(images, torch.tensor([0, 1, 1]))], k=2, threshold=2)
    assert result.own_class_count.tolist() == [1, 2]


def test_a_class_that_would_lose_everything_keeps_its_best():
    loader = line_of_images([0.0, 1, 2, 3, 10], [0, 0, 0, 0, 1])
    # Class 1: own-class counts 0, 0, 1 and 1; the last two tie, and prototype 7 is nearer to its nearest image.
    model = bare_model(torch.tensor([[0.0], [1], [2], [3], [0], [1], [7.5], [9]]), 2)
    result = prune_prototypes(model, loader, k=3, threshold=3)
    assert result.own_class_count.tolist() == [3, 3, 3, 3, 0, 0, 1, 1]
    assert result.kept.tolist() == [0, 1, 2, 3, 7]
    assert result.spared.tolist() == [7]
    assert model.class_identity.sum(dim=0).tolist() == [4, 1]


def test_the_first_is_spared_when_all_are_equal():
    model = bare_model(torch.tensor([[0.0], [0], [9], [9]]), 2)
    result = prune_prototypes(model, line_of_images([0.0, 9], [0, 0]), k=1, threshold=1)
    assert result.kept.tolist() == [0, 1, 2]
    assert result.spared.tolist() == [2]


def test_a_model_that_still_chooses_is_not_pruned():
    model = ProtoPool(nn.Identity(), 2, num_prototypes=4, slots_per_class=2, prototype_dim=3, in_channels=3)
    with pytest.raises(ValueError, match=r"model: must have made its choices final before pruning.*model.harden\(\)"):
        prune_prototypes(model, [(torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1]))])
    assert model.num_prototypes == 4
    assert not model.is_hard


def test_nothing_to_prune_leaves_the_parameters_in_place():
    model = bare_model(torch.tensor([[0.0], [9]]), 2)
    parameter = model.prototype_layer.prototypes
    result = prune_prototypes(model, line_of_images([0.0, 9], [0, 1]), k=1, threshold=1)
    assert result.pruned.tolist() == []
    assert model.prototype_layer.prototypes is parameter


def test_fewer_images_than_k_count_as_they_are():
    model = bare_model(torch.tensor([[0.0], [9]]), 2)
    result = prune_prototypes(model, line_of_images([0.0, 1, 9], [0, 0, 1]), k=6, threshold=2)
    assert result.own_class_count.tolist() == [2, 1]
    assert result.spared.tolist() == [1]


def plain_prune(prototypes, owners, images, labels, k, threshold):
    """The rule by loops: (kept, own-class counts)."""
    counts, nearest = [], []
    for prototype, owner in zip(prototypes, owners, strict=True):
        order = sorted(range(len(images)), key=lambda i: (float((images[i] - prototype).square().sum()), i))
        counts.append(sum(int(labels[i]) == owner for i in order[:k]))
        nearest.append(float((images[order[0]] - prototype).square().sum()))
    kept = {p for p, count in enumerate(counts) if count >= threshold}
    for owner in set(owners):
        members = [p for p, own in enumerate(owners) if own == owner]
        if not kept & set(members):
            kept.add(min(members, key=lambda p: (-counts[p], nearest[p], p)))
    return sorted(kept), counts


@settings(max_examples=60)
@given(data=st.data())
def test_pruning_equals_the_plain_rule_and_changes_no_contribution(data):
    draw = data.draw
    classes, per_class, count, k = (draw(st.integers(1, high)) for high in (3, 3, 8, 4))
    threshold = draw(st.integers(0, k))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    images = torch.randint(0, 4, (count, 2, 1, 1), generator=generator).float()
    prototypes = torch.randint(0, 4, (classes * per_class, 2), generator=generator).float()
    labels = torch.randint(0, classes, (count,), generator=generator)
    model = bare_model(prototypes, classes)
    with torch.no_grad():
        model.last_layer.weight.normal_(generator=generator)
        before = model(images).activations[:, None, :] * model.last_layer.weight
    loader = DataLoader(TensorDataset(images, labels), batch_size=3)
    result = prune_prototypes(model, loader, k, threshold)

    owners = [p // per_class for p in range(len(prototypes))]
    kept, counts = plain_prune(prototypes, owners, images[:, :, 0, 0], labels, k, threshold)
    assert result.kept.tolist() == kept
    assert result.own_class_count.tolist() == counts
    assert sorted([*kept, *result.pruned.tolist()]) == list(range(len(prototypes)))
    assert [p for p in kept if counts[p] < threshold] == result.spared.tolist()
    with torch.no_grad():
        after = model(images).activations[:, None, :] * model.last_layer.weight
    torch.testing.assert_close(after, before[:, :, kept], rtol=0, atol=0)


@pytest.mark.parametrize("threshold", [-1, 7])
def test_threshold_must_be_reachable(threshold):
    message = f"threshold: must be in 0 .. k = 6; got {threshold}. The original uses k=6, threshold=3."
    with pytest.raises(ValueError, match=message):
        prune_prototypes(bare_model(torch.zeros(2, 1), 2), [], threshold=threshold)


def bare_pool(prototypes: list[float], slots: list[list[int]], **options: str) -> ProtoPool:
    """A hardened pool of prototypes of depth 1 whose features are its images; class k has the prototypes `slots[k]`."""
    chosen = torch.tensor(slots)
    sizes = {"num_prototypes": len(prototypes), "slots_per_class": chosen.shape[1], "prototype_dim": 1}
    model = ProtoPool(nn.Identity(), len(slots), in_channels=1, image_size=8, **sizes, **options)
    model.add_on_layers = nn.Sequential()
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(torch.tensor(prototypes)[:, None])
        model.assignment.presence_logits.copy_(F.one_hot(chosen, len(prototypes)).transpose(1, 2))
    model.harden()
    return model


def test_images_of_all_classes_of_a_shared_prototype_count():
    loader = line_of_images([0.0, 1, 2, 10, 11, 12], [0, 1, 2, 2, 2, 1])
    # The prototypes 0 (of the classes 0 and 1), 1 (of 0) and 4 (of 2) are nearest to the images 0, 1 and 2, with the
    # labels 0, 1 and 2; the prototypes 2 (of 2) and 3 (of 1) to the others, with the labels 2, 2 and 1.
    model = bare_pool([0.5, 0.5, 11, 11, 1], [[0, 1], [0, 3], [2, 4]])
    result = prune_prototypes(model, loader, k=3, threshold=2)
    assert result.own_class_count.tolist() == [2, 1, 2, 1, 1]
    assert result.kept.tolist() == [0, 2]
    assert result.pruned.tolist() == [1, 3, 4]
    assert result.spared.tolist() == []
    assert model.prototype_layer.prototypes.tolist() == [[0.5], [11]]
    assert model.slots.tolist() == [[0, -1], [0, -1], [1, -1]]
    assert model.class_identity.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_no_class_of_a_pool_loses_its_last_prototype():
    loader = line_of_images([0.0, 1, 2, 3], [0, 0, 0, 0])
    # All images are of class 0. Class 1 has the prototypes 1 and 2, of which 2 is nearer to an image; class 2 has the
    # prototypes 2 and 3, and keeps the same; class 3 has 3 and 1, and keeps 1.
    model = bare_pool([0.0, 9, 5, 20, 0.5], [[0, 4], [1, 2], [2, 3], [3, 1]])
    result = prune_prototypes(model, loader, k=2, threshold=2)
    assert result.own_class_count.tolist() == [2, 0, 0, 0, 2]
    assert result.kept.tolist() == [0, 1, 2, 4]
    assert result.spared.tolist() == [1, 2]
    assert model.class_identity.sum(dim=0).min() >= 1
    assert model.slots.tolist() == [[0, 3], [1, 2], [2, -1], [-1, 1]]


@pytest.mark.parametrize("threshold", [0, 1])
def test_prototypes_that_no_class_uses_go(threshold):
    loader = line_of_images([0.0, 9], [0, 1])
    model = bare_pool([0.0, 4, 9, 5], [[0], [2]])
    result = prune_prototypes(model, loader, k=1, threshold=threshold)
    assert result.own_class_count.tolist() == [1, 0, 1, 0]
    assert result.kept.tolist() == [0, 2]
    assert result.pruned.tolist() == [1, 3]
    assert model.slots.tolist() == [[0], [1]]


@pytest.mark.parametrize("focal", ["distance", "similarity"])
@pytest.mark.parametrize("last_layer", ["linear", "sum"])
def test_slots_of_pruned_prototypes_are_empty_and_add_nothing(last_layer, focal):
    loader = line_of_images([0.0, 1, 2, 10, 11, 12], [0, 1, 2, 2, 2, 1])
    model = bare_pool([0.5, 0.5, 11, 11, 1], [[0, 1], [0, 3], [2, 4]], last_layer=last_layer, focal=focal)
    images = torch.rand(3, 1, 4, 4) * 9
    with torch.no_grad():
        for parameter in model.last_layer.parameters():
            parameter.normal_()
        before = model(images).activations[:, None, :] * model.prototype_weight
        result = prune_prototypes(model, loader, k=3, threshold=2)
        output = model(images)
        after = output.activations[:, None, :] * model.prototype_weight
    torch.testing.assert_close(after, before[:, :, result.kept])  # the fused mean rounds by what it is computed with
    torch.testing.assert_close(output.logits, after.sum(dim=2))
    assert (output.slot_similarities[:, :, 1] == 0).all()
    assert (output.assignment[:, :, 1] == 0).all()
    assert model.assignment.use().unused == ()


def test_prototypes_are_dropped_by_number():
    images = torch.rand(3, 1, 4, 4) * 9
    for choice in ({"drop": [3, 0]}, {"keep": [4, 1, 2]}):
        model = bare_pool([0.5, 4, 11, 7, 1], [[0, 1], [0, 4], [2, 3]])
        with torch.no_grad():
            model.last_layer.weight.normal_()
            before = model(images).activations[:, None, :] * model.prototype_weight
        result = prune_by_number(model, **choice)
        with torch.no_grad():
            after = model(images).activations[:, None, :] * model.prototype_weight
        assert result.kept.tolist() == [1, 2, 4]
        assert result.pruned.tolist() == [0, 3]
        assert model.prototype_layer.prototypes.tolist() == [[4], [11], [1]]
        assert model.slots.tolist() == [[-1, 0], [-1, 2], [1, -1]]
        torch.testing.assert_close(after, before[:, :, [1, 2, 4]])


def test_dropping_nothing_leaves_the_parameters_in_place():
    model = bare_model(torch.tensor([[0.0], [9]]), 2)
    parameter = model.prototype_layer.prototypes
    assert prune_by_number(model, keep=[1, 0]).pruned.tolist() == []
    assert model.prototype_layer.prototypes is parameter


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({}, "drop, keep: must be one of the two; got neither."),
        ({"drop": [0], "keep": [1]}, "drop, keep: must be one of the two; got both."),
        (
            {"drop": [4]},
            r"drop: must be prototypes of 0 \.\. 3; got 4\. The report and prototypes\.json have the numbers\.",
        ),
        ({"keep": [-1, 0]}, r"keep: must be prototypes of 0 \.\. 3; got -1\."),
        ({"drop": [1, 3, 1]}, r"drop: must name each prototype once; got 1 twice\. Leave one out\."),
        ({"keep": [2, 2]}, "keep: must name each prototype once; got 2 twice"),
        (
            {"drop": [3, 2]},
            r"drop: must leave every class a prototype; got none for class 1, which has 2, 3\. Keep one of",
        ),
        (
            {"keep": [2]},
            r"keep: must leave every class a prototype; got none for class 'hat', which has 0, 1\. Keep one",
        ),
        ({"keep": []}, "keep: must leave every class a prototype"),
    ],
)
def test_numbers_that_cannot_be_dropped_are_named_and_change_nothing(choice, message):
    model = bare_model(torch.tensor([[0.0], [1], [8], [9]]), 2)
    classes = ["hat", "dress"] if choice == {"keep": [2]} else None
    with pytest.raises(ValueError, match=message):
        prune_by_number(model, **choice, classes=classes)
    assert model.num_prototypes == 4


def test_a_model_that_still_chooses_drops_no_number():
    model = ProtoPool(nn.Identity(), 2, num_prototypes=4, slots_per_class=2, prototype_dim=3, in_channels=3)
    with pytest.raises(ValueError, match="model: must have made its choices final before pruning"):
        prune_by_number(model, drop=[0])
