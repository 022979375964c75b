"""The push: hand-computed cases, exactness afterwards, and what happens to classes without images."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from protokern.models import ProtoPNet, ProtoPool
from protokern.push import apply_push, push_found, push_prototypes
from protokern.search import NearestPatches, find_nearest_patches, merge_nearest


def bare_model(prototypes, num_classes, **options):
    """A model whose features are its images."""
    depth, size = prototypes.shape[1], tuple(prototypes.shape[2:]) or (1, 1)
    per_class = len(prototypes) // num_classes
    model = ProtoPNet(
        nn.Identity(),
        num_classes,
        prototypes_per_class=per_class,
        prototype_dim=depth,
        prototype_size=size,
        in_channels=depth,
        image_size=8,
        **options,
    )
    model.add_on_layers = nn.Sequential()
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(prototypes)
    return model


def test_three_patches_and_two_prototypes():
    # One image of one row for each class: patches 0, 4 and 9 for class 0; 1, 5 and 10 for class 1. Depth 1.
    images = torch.tensor([[0.0, 4, 9], [1, 5, 10]]).reshape(2, 1, 1, 3)
    model = bare_model(torch.tensor([[5.0], [4.5]]), 2)
    parameter = model.prototype_layer.prototypes
    result = push_prototypes(model, [(images, torch.tensor([0, 1]))])
    # Prototype 0 is nearest to 5, but that patch is of class 1.
    assert model.prototype_layer.prototypes.tolist() == [[4], [5]]
    assert model.prototype_layer.prototypes is parameter
    assert parameter.requires_grad
    assert result.image.tolist() == [0, 1]
    assert result.patch.tolist() == [1, 1]
    assert result.distance.tolist() == [1, 0.25]
    assert result.label.tolist() == [0, 1]
    assert result.grid == (1, 3)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6])
def test_the_first_in_order_wins_a_tie(batch_size):
    # Distance 1 is met in image 1 at patches 1 and 2, and again in images 3 and 5.
    values = [[3.0, 3, 3], [3, 1, -1], [9, 9, 9], [1, 1, 1], [9, 9, 9], [-1, 1, 1]]
    images = torch.tensor(values).reshape(6, 1, 1, 3)
    model = bare_model(torch.tensor([[0.0]]), 1)
    loader = DataLoader(TensorDataset(images, torch.zeros(6, dtype=torch.int64)), batch_size=batch_size)
    result = push_prototypes(model, loader)
    assert (result.image.item(), result.patch.item()) == (1, 1)
    assert model.prototype_layer.prototypes.item() == 1


def test_a_push_by_another_search_tells_what_was_lost_and_warns_of_nothing():
    batches = [(torch.zeros(1, 1, 2, 2), torch.tensor([0]))]
    lost = "loader: has no image of the classes [1]; the prototypes [2, 3] keep their vectors."
    model = bare_model(torch.tensor([[5.0], [6], [7], [8]]), 2)
    result = push_found(model, lambda *given, **chosen: find_nearest_patches(given[0], batches, *given[1:], **chosen))
    assert result.notices == (lost,)
    assert model.prototype_layer.prototypes.flatten().tolist() == [0, 0, 7, 8]
    assert result.keep(torch.tensor([0, 3])).image.tolist() == [0, -1]


def test_class_without_images_keeps_its_prototypes_and_is_named():
    model = bare_model(torch.tensor([[5.0], [6], [7], [8]]), 2)
    with pytest.warns(
        UserWarning, match=r"loader: has no image of the classes \[1\]; the prototypes \[2, 3\] keep their vectors."
    ):
        result = push_prototypes(model, [(torch.zeros(1, 1, 2, 2), torch.tensor([0]))])
    assert model.prototype_layer.prototypes.flatten().tolist() == [0, 0, 7, 8]
    assert result.image.tolist() == [0, 0, -1, -1]
    assert result.patch.tolist() == [0, 0, -1, -1]
    assert result.label.tolist() == [0, 0, -1, -1]
    assert result.distance.tolist() == [25, 36, math.inf, math.inf]


def test_nan_leaves_the_prototypes_alone():
    model = bare_model(torch.tensor([[5.0]]), 1)
    images = torch.tensor([1.0, torch.nan]).reshape(2, 1, 1, 1)
    with pytest.raises(ValueError, match="model: must give finite distances"):
        push_prototypes(model, [(images, torch.tensor([0, 0]))])
    assert model.prototype_layer.prototypes.item() == 5


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([(), (2, 1), (2, 2)]),
    offset=st.sampled_from([0.0, 1000.0]),
    metric=st.sampled_from(["sqeuclidean", "cosine"]),
    batch_size=st.integers(1, 5),
)
def test_pushed_prototypes_are_patches_of_the_push_set(seed, size, offset, metric, batch_size):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(6, 3, 3, 4, generator=generator) + offset
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    model = bare_model(torch.rand(4, 3, *size, generator=generator), 2, metric=metric)
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch_size)
    first = push_prototypes(model, loader)
    height, width = size or (1, 1)
    for p, prototype in enumerate(model.prototype_layer.prototypes):
        row, col = divmod(int(first.patch[p]), first.grid[1])
        patch = images[first.image[p], :, row : row + height, col : col + width]
        assert torch.equal(prototype.reshape(patch.shape), patch)  # for cosine too: the patch itself, not its direction
        assert labels[first.image[p]] == model.class_identity[p].argmax()
    with torch.no_grad():
        output = model(images)
    own = output.min_distances.masked_fill(labels[:, None] != model.class_identity.argmax(1), torch.inf)
    assert own.amin(dim=0).tolist() == [0] * 4
    assert output.activations.amax(dim=0).tolist() == pytest.approx([math.log(1e4)] * 4, abs=1e-4)
    again = push_prototypes(model, loader)
    assert again.distance.tolist() == [0] * 4


def test_pushed_prototypes_of_a_whole_net_are_found_again():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    model = ProtoPNet(backbone, 3, prototypes_per_class=4, prototype_dim=16).train()
    images, labels = torch.rand(9, 3, 20, 20), torch.arange(9) % 3
    model(images)  # moves the BatchNorm statistics
    push_prototypes(model, DataLoader(TensorDataset(images, labels), batch_size=4))
    assert model.training
    with torch.no_grad():
        output = model.eval()(images)
    own = labels[:, None] == model.class_identity.argmax(1)
    best = output.activations.masked_fill(~own, -math.inf).amax(dim=0)
    assert best.tolist() == pytest.approx([math.log(1e4)] * 12, abs=1e-4)


def bare_pool(prototypes: list[float], slots: list[list[int]], *, hard: bool = True) -> ProtoPool:
    """A pool of prototypes of depth 1 whose features are its images; class k has the prototypes `slots[k]`."""
    chosen = torch.tensor(slots)
    model = ProtoPool(
        nn.Identity(),
        len(slots),
        num_prototypes=len(prototypes),
        slots_per_class=chosen.shape[1],
        prototype_dim=1,
        in_channels=1,
        image_size=8,
    )
    model.add_on_layers = nn.Sequential()
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(torch.tensor(prototypes)[:, None])
        logits = F.one_hot(chosen, len(prototypes)).transpose(1, 2)
        model.assignment.presence_logits.copy_(logits)
    if hard:
        model.harden()
    return model


def test_a_shared_prototype_may_come_from_any_of_its_classes():
    # One image of each class: patches 0 and 10 of class 0, 4 and 11 of class 1, 7 and 1 of class 2.
    images = torch.tensor([[0.0, 10], [4, 11], [7, 1]]).reshape(3, 1, 1, 2)
    # All are nearest to the patch 7 of class 2. Prototype 0 is of the classes 0 and 1, prototype 1 of 0 alone,
    # prototype 2 of 1 and 2, prototype 3 of 2 alone.
    model = bare_pool([6.0, 6.75, 6.5, 7.5], [[0, 1], [0, 2], [2, 3]])
    parameter = model.prototype_layer.prototypes
    result = push_prototypes(model, [(images, torch.tensor([0, 1, 2]))])
    assert parameter.flatten().tolist() == [4, 10, 7, 7]
    assert parameter is model.prototype_layer.prototypes
    assert result.image.tolist() == [1, 0, 2, 2]
    assert result.patch.tolist() == [0, 1, 0, 0]
    assert result.label.tolist() == [1, 0, 2, 2]
    assert result.distance.tolist() == [4, 3.25**2, 0.25, 0.25]


def test_an_unused_prototype_keeps_its_vector_and_is_named():
    model = bare_pool([6.0, 0.1, 1.0, 1 / 3], [[0], [2]])
    before = model.prototype_layer.prototypes.detach().clone()
    with pytest.warns(UserWarning, match=r"^model: no class uses the prototypes \[1, 3\]; they keep their vectors\.$"):
        result = push_prototypes(model, [(torch.tensor([5.0, 2]).reshape(2, 1, 1, 1), torch.tensor([0, 1]))])
    assert torch.equal(model.prototype_layer.prototypes[[1, 3]], before[[1, 3]])
    assert model.prototype_layer.prototypes[[0, 2]].flatten().tolist() == [5, 2]
    assert result.image.tolist() == [0, -1, 1, -1]
    assert result.patch.tolist() == [0, -1, 0, -1]
    assert result.label.tolist() == [0, -1, 1, -1]
    assert result.distance.tolist() == [1, math.inf, 1, math.inf]


def test_a_shared_prototype_is_found_while_one_of_its_classes_has_images():
    model = bare_pool([6.0, 7.0, 8.0], [[0, 1], [1, 2]])
    with pytest.warns(
        UserWarning, match=r"^loader: has no image of the classes \[1\]; the prototypes \[2\] keep their vectors\.$"
    ):
        result = push_prototypes(model, [(torch.tensor([5.0]).reshape(1, 1, 1, 1), torch.tensor([0]))])
    assert model.prototype_layer.prototypes.flatten().tolist() == [5, 5, 8]
    assert result.image.tolist() == [0, 0, -1]


def test_soft_choices_are_refused():
    model = bare_pool([6.0, 7.0], [[0], [1]], hard=False)
    with pytest.raises(
        ValueError,
        match=r"^model: must have made its choices final before a push; they are soft\. Call model\.harden\(\) first\.",
    ):
        push_prototypes(model, [(torch.zeros(1, 1, 1, 1), torch.tensor([0]))])
    assert model.prototype_layer.prototypes.flatten().tolist() == [6, 7]


WEIGHTED = {"metric": "cosine", "activation": "cosine", "salience": 1.0}


def unit(degrees: float, length: float = 1.0) -> list[float]:
    return [length * math.cos(math.radians(degrees)), length * math.sin(math.radians(degrees))]


def test_a_prototype_that_is_a_patch_stays_where_another_patch_counts_for_more():
    # One image of class 0 with a faint patch at 0 degrees and a bright one at 20, and one of class 1 with one at 0.
    images = torch.tensor([[unit(0, 0.5), unit(20)], [unit(90), unit(0)]]).permute(0, 2, 1)[:, :, None]  # (2, 2, 1, 2)
    prototypes = torch.tensor([unit(0, 0.5), unit(5, 3), unit(0, 0.5), unit(80)])
    model = bare_model(prototypes, 2, **WEIGHTED)
    with torch.no_grad():  # by weighted distance the bright patch is nearer to all of class 0
        assert model(images[:1]).patches[0, :2].tolist() == [1, 1]
    result = push_prototypes(model, [(images, torch.tensor([0, 1]))])
    pushed = model.prototype_layer.prototypes.detach()
    assert torch.equal(pushed[0], prototypes[0])
    assert torch.equal(pushed[1], images[0, :, 0, 1])
    assert torch.equal(pushed[2], prototypes[2])  # the direction of a patch of its class, whatever its length
    assert torch.equal(pushed[3], images[1, :, 0, 0])
    assert result.image.tolist() == [0, 0, 1, 1]
    assert result.patch.tolist() == [0, 1, 1, 0]
    assert result.label.tolist() == [0, 0, 1, 1]
    # How far each one moved, which no weight changes.
    moved = [0, 1 - math.cos(math.radians(15)), 0, 1 - math.cos(math.radians(10))]
    assert result.distance.tolist() == pytest.approx(moved, abs=1e-6)


@pytest.mark.parametrize("size", [(), (2, 1)])
def test_a_second_push_changes_nothing_where_patches_have_weights(size):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
    model = ProtoPNet(
        backbone,
        3,
        prototypes_per_class=6,
        prototype_dim=5,
        prototype_size=size or (1, 1),
        image_size=16,
        add_on_layers="linear",
        **WEIGHTED,
    )
    loader = DataLoader(TensorDataset(torch.rand(9, 3, 16, 16), torch.arange(9) % 3), batch_size=4)
    first = push_prototypes(model, loader)
    before = model.prototype_layer.prototypes.detach().clone()
    second = push_prototypes(model, loader)
    assert torch.equal(model.prototype_layer.prototypes, before)
    assert torch.equal(second.image, first.image)
    assert torch.equal(second.patch, first.patch)
    assert second.distance.max() < 1e-6
    assert first.distance.min() > 1e-3
    # It would have moved some of them, had it gone by weighted distance alone.
    nearest = find_nearest_patches(model, loader, own_class=True)
    assert (nearest.patch[:, 0] != first.patch).any()


def test_a_search_without_weights_is_wanted_where_patches_have_them_and_only_there():
    images = torch.tensor([[unit(0), unit(20)]]).permute(0, 2, 1)[:, :, None]
    loader = [(images, torch.tensor([0]))]
    model = bare_model(torch.tensor([unit(30)]), 1, **WEIGHTED)
    found = find_nearest_patches(model, loader, own_class=True, vectors=True)
    plain = find_nearest_patches(model, loader, own_class=True, weighted=False)
    with pytest.raises(
        ValueError,
        match=r"^unweighted: must be given for a model whose patches have weights; got nothing\. Search",
    ):
        apply_push(model, found)
    apply_push(model, found, plain)
    other = bare_model(torch.tensor([unit(30)]), 1)
    found = find_nearest_patches(other, loader, own_class=True, vectors=True)
    with pytest.raises(
        ValueError, match=r"^unweighted: must be None for a model whose patches have no weights; got patches\. Search"
    ):
        apply_push(other, found, plain)


def test_parts_of_a_data_set_are_pushed_as_the_whole_where_patches_have_weights():
    torch.manual_seed(0)
    images, labels = torch.rand(6, 3, 2, 3), torch.tensor([0, 1, 1, 0, 1, 0])
    prototypes = torch.rand(6, 3)
    prototypes[1] = images[0, :, 1, 1]
    whole, merged = (bare_model(prototypes, 2, **WEIGHTED) for _ in range(2))
    wanted = push_prototypes(whole, [(images, labels)])

    def search(weighted: bool) -> NearestPatches:
        return merge_nearest(
            [
                find_nearest_patches(
                    merged,
                    [(images[part], labels[part])],
                    own_class=True,
                    vectors=True,
                    first_image=part.start,
                    weighted=weighted,
                )
                for part in (slice(0, 2), slice(2, 6))
            ]
        )

    result = apply_push(merged, search(True), search(False))
    assert torch.equal(merged.prototype_layer.prototypes, whole.prototype_layer.prototypes)
    assert torch.equal(result.patch, wanted.patch)
    assert torch.equal(result.image, wanted.image)
