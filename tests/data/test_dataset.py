"""Items are the same for any cache, batch, order and number of workers; epochs differ only by augmentation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from protokern.data import ImageDataset, PhotoDataset
from protokern.errors import DataError


@pytest.fixture
def photos(tmp_path: Path) -> list[tuple[Path, int]]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)).save(path)
    return [(path, i % 2) for i, path in enumerate(paths)]


def data_set(
    photos: list[tuple[Path, int]], augmentation: str = "protopnet", cache: str = "none", seed: int = 0
) -> PhotoDataset:
    return PhotoDataset(
        photos,
        ["a", "b"],
        root=photos[0][0].parent,
        image_size=16,
        augmentation=augmentation,
        cache=cache,
        seed=seed,
    )


def images_of(data: ImageDataset) -> torch.Tensor:
    return torch.stack([data[i][0] for i in range(len(data))])


def test_item_is_a_unit_range_image_and_a_label(photos: list[tuple[Path, int]]) -> None:
    image, label = data_set(photos)[3]
    assert image.shape == (3, 16, 16)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < image.max() <= 1
    assert label == 1


def test_batch_equals_single_items_whatever_the_order(photos: list[tuple[Path, int]]) -> None:
    data = data_set(photos)
    singles = images_of(data)
    for i, (image, _) in zip([4, 1, 0, 5], data.__getitems__([4, 1, 0, 5]), strict=True):
        assert torch.equal(image, singles[i])


@pytest.mark.parametrize("augmentation", ["none", "protopnet"])
def test_cache_changes_nothing_but_speed(photos: list[tuple[Path, int]], augmentation: str) -> None:
    expected = images_of(data_set(photos, augmentation))
    cached = data_set(photos, augmentation, cache="memory")
    cached.preload()
    for path, _ in photos:
        path.unlink()
    assert torch.equal(images_of(cached), expected)
    assert torch.equal(images_of(cached), expected)


def test_views_change_with_epoch_and_seed_and_come_back(photos: list[tuple[Path, int]]) -> None:
    data = data_set(photos)
    first = images_of(data)
    data.set_epoch(1)
    assert not torch.equal(images_of(data), first)
    data.set_epoch(0)
    assert torch.equal(images_of(data), first)
    assert not torch.equal(images_of(data_set(photos, seed=1)), first)


def test_without_augmentation_epochs_are_equal(photos: list[tuple[Path, int]]) -> None:
    data = data_set(photos, "none")
    first = images_of(data)
    data.set_epoch(1)
    assert torch.equal(images_of(data), first)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_worker_processes_give_the_same_items(photos: list[tuple[Path, int]], cache: str) -> None:
    data = data_set(photos, cache=cache)
    data.preload()
    loader = DataLoader(data, batch_size=2, num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    for epoch in (0, 1):  # workers that live on must see the new epoch
        data.set_epoch(epoch)
        assert torch.equal(torch.cat([images for images, _ in loader]), images_of(data))


def test_display_image_cannot_change_the_cache(photos: list[tuple[Path, int]]) -> None:
    data = data_set(photos, "none", cache="memory")
    before = data.display_image(0)
    data.display_image(0)[:] = 0
    np.testing.assert_array_equal(data.display_image(0), before)


def test_without_augmentation_gives_the_plain_images_in_order(photos: list[tuple[Path, int]]) -> None:
    augmented = data_set(photos, cache="memory")
    plain = augmented.without_augmentation()
    assert torch.equal(images_of(plain), images_of(data_set(photos, "none")))
    assert not torch.equal(images_of(augmented), images_of(plain))


def test_index_past_the_end_is_an_index_error(photos: list[tuple[Path, int]]) -> None:
    data = data_set(photos)
    assert torch.equal(data[-1][0], data[5][0])
    with pytest.raises(IndexError):
        data[6]


def test_cache_larger_than_half_the_memory_is_refused(
    photos: list[tuple[Path, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The six images need 6 x 16 x 16 x 3 = 4608 bytes.
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 9}.__getitem__)
    data_set(photos, "none", cache="memory")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 8}.__getitem__)
    data_set(photos, "none", cache="none")
    with pytest.raises(DataError, match=r"cache: must fit into half of this machine's memory of .* got 6 images that"):
        data_set(photos, "none", cache="memory")


def test_unknown_cache_and_negative_seed_are_refused(photos: list[tuple[Path, int]]) -> None:
    with pytest.raises(ValueError, match="cache: must be one of none, memory; got 'disk'"):
        data_set(photos, cache="disk")
    with pytest.raises(ValueError, match="seed: must be 0 or more; got -1"):
        data_set(photos, seed=-1)
