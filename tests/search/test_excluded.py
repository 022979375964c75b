"""Patches that no prototype may take, against a loop over the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern.prototype_start import find_starts
from protokern.push import push_found
from protokern.ranks import SINGLE
from protokern.search import find_nearest_patches
from protokern.search.shards import ShardedSearch
from tests.search.plain import bare_model, loader_of

IMAGES = torch.rand(6, 4, 3, 5, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
VECTORS = torch.rand(4, 4, generator=torch.Generator().manual_seed(2))
MASK = torch.rand(6, 3, 5, generator=torch.Generator().manual_seed(3)) < 0.5
MASK[2] = True  # a whole image


def excluded(features: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    assert torch.equal(labels, LABELS[index])
    return MASK[index]


def nearest_left(prototype: Tensor, of_class: int | None, mask: Tensor) -> tuple[float, int, int]:
    """Distance, image and patch of the nearest patch that is left, in the order of images and patches."""
    best = (torch.inf, -1, -1)
    for image in range(len(IMAGES)):
        for patch in range(15):
            row, column = divmod(patch, 5)
            if mask[image, row, column] or (of_class is not None and int(LABELS[image]) != of_class):
                continue
            distance = float((IMAGES[image, :, row, column] - prototype).square().sum())
            if distance < best[0]:
                best = (distance, image, patch)
    return best


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("own_class", [True, False])
def test_the_nearest_of_the_others_is_found(batch_size: int, own_class: bool) -> None:
    model = bare_model(VECTORS, 2)
    loader = loader_of(IMAGES, LABELS, batch_size)
    found = find_nearest_patches(model, loader, own_class=own_class, excluded=excluded)
    for p, prototype in enumerate(VECTORS):
        of_class = int(model.class_identity[p].argmax()) if own_class else None
        distance, image, patch = nearest_left(prototype, of_class, MASK)
        assert (int(found.image[p, 0]), int(found.patch[p, 0])) == (image, patch)
        assert float(found.distance[p, 0]) == pytest.approx(distance)


def test_excluding_nothing_changes_no_bit() -> None:
    model = bare_model(VECTORS, 2)
    plain = find_nearest_patches(model, loader_of(IMAGES, LABELS, 4), own_class=True)
    same = find_nearest_patches(
        model,
        loader_of(IMAGES, LABELS, 4),
        own_class=True,
        excluded=lambda features, labels, index: torch.zeros(len(labels), 3, 5, dtype=torch.bool),
    )
    assert torch.equal(same.distance, plain.distance)
    assert torch.equal(same.patch, plain.patch)


def test_a_prototype_whose_class_has_nothing_left_keeps_its_vector() -> None:
    model = bare_model(VECTORS, 2)

    def all_of_class_1(features: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        return (labels == 1)[:, None, None].expand(-1, 3, 5)

    search = ShardedSearch(SINGLE, _part(), 0, all_of_class_1)
    push = push_found(model, search)
    is_of_1 = model.class_identity[:, 1] > 0
    assert bool((push.image[is_of_1] == -1).all())
    assert bool((push.image[~is_of_1] >= 0).all())
    assert torch.equal(model.prototype_layer.prototypes[is_of_1], VECTORS[is_of_1])


def test_all_patches_of_an_image_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="excluded: must be None with patches='all'"):
        find_nearest_patches(bare_model(VECTORS, 2), loader_of(IMAGES, LABELS, 4), 2, patches="all", excluded=excluded)


def test_no_prototype_starts_there() -> None:
    model = bare_model(VECTORS, 2)
    starts = find_starts(model, [(IMAGES, LABELS)], 0, range(6), 0, SINGLE, excluded=excluded)
    for image, patch in zip(starts.image.tolist(), starts.patch.tolist(), strict=True):
        assert not MASK[image, patch // 5, patch % 5]


class _Part:
    given = "images"

    def __len__(self) -> int:
        return 1

    def __iter__(self):
        yield IMAGES, LABELS


def _part() -> _Part:
    return _Part()
