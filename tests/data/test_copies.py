"""Images that two data sets share are found; pictures that only look alike at a glance are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protokern.data import PhotoDataset, SyntheticBirds
from protokern.data.copies import Copy, find_copies, make_small

SIZE = 96


def scene(seed: int) -> Image.Image:
    """Soft blobs of colour, as a photograph has them, with a little grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
    )
    return Image.fromarray((np.asarray(coarse) * 0.9 + rng.integers(0, 25, (SIZE, SIZE, 3))).astype(np.uint8))


def dataset(root: Path, name: str, images: list[tuple[Image.Image, str]], **options: Any) -> PhotoDataset:
    folder = root / name
    folder.mkdir()
    samples = []
    for number, (image, suffix) in enumerate(images):
        path = folder / f"{number}{suffix}"
        image.save(path, **(options if suffix == ".jpg" else {}))
        samples.append((path, 0))
    return PhotoDataset(samples, ["one", "two"], root=root, image_size=32)


def copies(images: PhotoDataset, others: PhotoDataset) -> list[Copy]:
    return find_copies(images, make_small(images), others, make_small(others))


def test_the_same_bytes_are_told_from_the_same_picture(tmp_path: Path) -> None:
    train = dataset(tmp_path, "train", [(scene(seed), ".png") for seed in range(5)])
    test = dataset(tmp_path, "test", [(scene(9), ".png"), (scene(3), ".png"), (scene(1), ".jpg")], quality=85)
    assert copies(test, train) == [Copy(1, 3, has_same_bytes=True), Copy(2, 1, has_same_bytes=False)]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((SIZE // 2, SIZE // 2)),
        lambda image: image.resize((SIZE * 2, SIZE * 3)),
        lambda image: image.point(lambda value: min(255, int(value * 1.04))),
    ],
    ids=["half", "stretched", "brighter"],
)
def test_pictures_that_were_saved_again_are_found(tmp_path: Path, change) -> None:
    train = dataset(tmp_path, "train", [(scene(seed), ".png") for seed in range(6)])
    test = dataset(tmp_path, "test", [(change(scene(seed)), ".png") for seed in (4, 2)])
    assert copies(test, train) == [Copy(0, 4, has_same_bytes=False), Copy(1, 2, has_same_bytes=False)]


@pytest.mark.parametrize("quality", [30, 90])
def test_a_jpeg_of_a_picture_is_found(tmp_path: Path, quality: int) -> None:
    train = dataset(tmp_path, "train", [(scene(seed), ".png") for seed in range(6)])
    test = dataset(tmp_path, "test", [(scene(seed), ".jpg") for seed in range(6)], quality=quality)
    assert [(copy.image, copy.of) for copy in copies(test, train)] == [(seed, seed) for seed in range(6)]


def test_different_pictures_of_one_kind_are_no_copies(tmp_path: Path) -> None:
    birds = SyntheticBirds("train", num_classes=2, images_per_class=8, image_size=64, seed=0)
    pictures = [(Image.fromarray(birds.display_image(index)), ".png") for index in range(16)]
    assert copies(dataset(tmp_path, "a", pictures[::2]), dataset(tmp_path, "b", pictures[1::2])) == []


def test_pictures_of_one_colour_are_copies_by_their_bytes_alone(tmp_path: Path) -> None:
    """A black frame is like every other black frame; only the file itself says that it is one."""
    black, same = Image.new("RGB", (30, 20)), Image.new("RGB", (30, 20))
    train = dataset(tmp_path, "train", [(scene(0), ".png"), (black, ".png")])
    test = dataset(tmp_path, "test", [(same, ".png"), (Image.new("RGB", (20, 30)), ".png")])
    assert copies(test, train) == [Copy(0, 1, has_same_bytes=True)]


def test_a_picture_of_the_same_shapes_in_other_light_is_no_copy(tmp_path: Path) -> None:
    train = dataset(tmp_path, "train", [(scene(0), ".png")])
    test = dataset(tmp_path, "test", [(scene(0).point(lambda value: value // 2), ".png")])
    assert copies(test, train) == []


def test_files_that_cannot_be_read_by_now_are_left_out(tmp_path: Path) -> None:
    train = dataset(tmp_path, "train", [(scene(seed), ".png") for seed in range(3)])
    test = dataset(tmp_path, "test", [(scene(seed), ".png") for seed in range(3)])
    (tmp_path / "test" / "0.png").write_bytes(b"no longer an image")
    (tmp_path / "train" / "1.png").unlink()
    assert copies(test, train) == [Copy(2, 2, has_same_bytes=True)]


def test_many_images_are_compared_in_parts(tmp_path: Path) -> None:
    train = dataset(tmp_path, "train", [(scene(seed), ".png") for seed in range(5)])
    test = dataset(tmp_path, "test", [(scene(4 - seed), ".png") for seed in range(5)])
    found = find_copies(test, make_small(test), train, make_small(train), at_once=2)
    assert [(copy.image, copy.of) for copy in found] == [(0, 4), (1, 3), (2, 2), (3, 1), (4, 0)]
