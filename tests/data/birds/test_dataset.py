"""Synthetic birds: the same bits for a seed, parts where they are said to be, and a learnable, fair task."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from protokern.data import BirdCounts, SyntheticBirds, open_splits
from protokern.data.birds.dataset import ANNOTATED_PARTS, share_on_bird


def small(split: str = "train", num_classes: int = 4, images_per_class: int = 3, seed: int = 0) -> SyntheticBirds:
    return SyntheticBirds(split, num_classes=num_classes, images_per_class=images_per_class, image_size=48, seed=seed)


def digest() -> str:
    birds = small(num_classes=12, images_per_class=1)
    return hashlib.sha256(b"".join(birds.display_image(i).tobytes() for i in range(len(birds)))).hexdigest()


def test_item_is_a_unit_range_image_and_a_label() -> None:
    birds = small()
    image, label = birds[7]
    assert image.shape == (3, 48, 48)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < image.max() <= 1
    assert label == 2
    assert birds.labels == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert birds.sample_name(7) == f"train/{birds.classes[2]}/0001"
    assert birds.source_path(7) is None


def test_same_bits_in_this_and_in_a_fresh_process() -> None:
    here = digest()
    assert here == digest()
    command = f"import runpy; print(runpy.run_path({__file__!r})['digest']())"
    there = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_seed_split_and_index_each_change_the_picture() -> None:
    pictures = [small().display_image(0), small(seed=1).display_image(0), small("val").display_image(0)]
    pictures.append(small().display_image(1))
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_picture_does_not_depend_on_the_number_of_classes() -> None:
    np.testing.assert_array_equal(small(num_classes=2).display_image(4), small(num_classes=9).display_image(4))


def test_sizes_show_the_same_scene() -> None:
    large = SyntheticBirds("train", num_classes=2, images_per_class=1, image_size=128)
    medium = SyntheticBirds("train", num_classes=2, images_per_class=1, image_size=64)
    box = np.array(large.annotations(0).box) / 2
    np.testing.assert_allclose(box, medium.annotations(0).box, atol=1.5)


@pytest.mark.parametrize("size", [16, (40, 72), (72, 40), 224])
def test_any_size(size: int | tuple[int, int]) -> None:
    birds = SyntheticBirds("test", num_classes=3, images_per_class=1, image_size=size)
    expected = (size, size) if isinstance(size, int) else size
    for i in range(3):
        assert birds.display_image(i).shape == (*expected, 3)
        y0, x0, y1, x1 = birds.annotations(i).box
        assert 0 <= y0 < y1 <= expected[0]
        assert 0 <= x0 < x1 <= expected[1]


def test_bird_lies_inside_the_picture_and_fills_a_good_part_of_it() -> None:
    birds = SyntheticBirds("train", num_classes=20, images_per_class=2, image_size=64)
    shares = []
    for i in range(len(birds)):
        bird = birds.annotations(i).masks["bird"]
        assert not bird[0].any()
        assert not bird[-1].any()
        assert not bird[:, 0].any()
        assert not bird[:, -1].any()
        shares.append(bird.mean())
    assert min(shares) > 0.12
    assert max(shares) < 0.6


def test_box_is_tight_and_part_masks_lie_on_the_bird() -> None:
    birds = SyntheticBirds("train", num_classes=14, images_per_class=1, image_size=96)
    for i in range(len(birds)):
        annotation = birds.annotations(i)
        bird = annotation.masks["bird"]
        y0, x0, y1, x1 = annotation.box
        assert bird[y0:y1, x0:x1].sum() == bird.sum()
        assert bird[y0].any()
        assert bird[y1 - 1].any()
        assert bird[:, x0].any()
        assert bird[:, x1 - 1].any()
        parts = np.stack([annotation.masks[part] for part in ANNOTATED_PARTS])
        assert not (parts & ~bird).any()
        for first in range(len(parts)):
            for second in range(first):
                assert (parts[first] & parts[second]).sum() <= 0.02 * bird.sum()  # pixels covered half and half
        assert (parts.reshape(len(parts), -1).sum(axis=1) > 0).all()


def test_visible_keypoints_lie_on_their_masks() -> None:
    birds = SyntheticBirds("train", num_classes=14, images_per_class=1, image_size=128)
    for i in range(len(birds)):
        annotation = birds.annotations(i)
        assert set(annotation.keypoints) == set(ANNOTATED_PARTS)
        for part, (y, x, visible) in annotation.keypoints.items():
            near = annotation.masks[part][max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2]
            assert not visible or near.any(), part


def test_backdrops_do_not_tell_the_class() -> None:
    """Nearest mean of the picture's four corners does no better than chance."""
    train, test = (SyntheticBirds(s, num_classes=5, images_per_class=40, image_size=16) for s in ("train", "test"))

    def corners(birds: SyntheticBirds) -> np.ndarray:
        pixels = np.stack([birds.display_image(i) for i in range(len(birds))]).astype(float)
        return np.concatenate([pixels[:, y, x] for y in (0, -1) for x in (0, -1)], axis=1)

    features, labels = corners(train), np.array(train.labels)
    means = np.stack([features[labels == k].mean(axis=0) for k in range(5)])
    guesses = ((corners(test)[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    # Chance is 0.2; of 200 guesses 0.32 is more than four standard deviations above it.
    assert (guesses == np.array(test.labels)).mean() < 0.32


def test_bird_share_counts_patch_centres_on_the_bird() -> None:
    birds = small()
    mask = birds.annotations(5).masks["bird"]
    grid = (6, 6)
    expected = [bool(mask[int((r + 0.5) * 8), int((c + 0.5) * 8)]) for r in range(6) for c in range(6)]
    assert birds.bird_share([5] * 36, range(36), grid) == sum(expected) / 36
    assert 0 < sum(expected) < 36


def test_bird_share_leaves_out_prototypes_without_image() -> None:
    birds = small()
    inside = int(np.flatnonzero(birds.annotations(0).masks["bird"])[0])
    assert birds.bird_share(torch.tensor([-1, 0]), torch.tensor([0, inside]), (48, 48)) == 1
    assert np.isnan(birds.bird_share([-1], [0], (48, 48)))


def test_share_on_bird_of_hand_made_masks() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[2:, 3:] = True
    assert share_on_bird([mask] * 4, [0, 1, 2, 3], (2, 2)) == 0.25


def test_open_splits_paints_birds_without_a_folder() -> None:
    for root in (None, "synthetic-birds"):
        splits = open_splits(
            root,
            image_size=32,
            birds=BirdCounts(num_classes=3, train_per_class=4, val_per_class=2, test_per_class=1),
        )
        assert [len(data) for data in (splits.train, splits.push, splits.val, splits.test)] == [12, 12, 6, 3]
        assert splits.notes == (
            "synthetic birds: 3 species, 12 training, 6 validation and 3 test pictures, painted from seed 0",
        )
    assert splits.classes == splits.test.classes
    assert splits.train.augmentation is not None
    assert splits.push.augmentation is None
    np.testing.assert_array_equal(splits.train.display_image(5), splits.push.display_image(5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split: must be one of train, val, test; got 'dev'"),
        ({"num_classes": 1}, "num_classes: must be from 2 to 343; got 1"),
        ({"num_classes": 344}, "num_classes: must be from 2 to 343; got 344"),
        ({"images_per_class": 0}, "images_per_class: must be at least 1; got 0"),
        ({"image_size": 15}, r"image_size: must be at least 16 pixels; got \(15, 15\)"),
        ({"seed": -1}, "seed: must be 0 or more; got -1"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticBirds(**({"split": "train"} | arguments))
