from __future__ import annotations

import io

import numpy as np
from PIL import Image

from protokern.report.images import LONGEST_SIDE, PictureShelf, encode
from protokern.results.places import LazyPicture


def decode(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("JPEG",))


def test_small_pictures_keep_their_size_and_look() -> None:
    picture = np.full((40, 60, 3), (200, 100, 50), np.uint8)
    image = decode(encode(picture))
    assert image.size == (60, 40)
    assert np.abs(np.asarray(image).astype(int) - picture).max() <= 4


def test_large_pictures_are_shrunk_with_their_proportions() -> None:
    for shape, size in (((600, 1200, 3), (LONGEST_SIDE, LONGEST_SIDE // 2)), ((4000, 2, 3), (1, LONGEST_SIDE))):
        assert decode(encode(np.zeros(shape, np.uint8))).size == size


def test_equal_pictures_are_stored_once_whoever_made_them() -> None:
    shelf = PictureShelf()
    picture = np.zeros((8, 8, 3), np.uint8)
    first = shelf.find(picture)
    assert shelf.find(picture) is first
    assert shelf.find(picture.copy()) is first
    other = shelf.find(picture + 200)
    assert [one.index for one in shelf.pictures] == [first.index, other.index] == [0, 1]
    assert shelf.num_bytes == len(first.data) + len(other.data)
    assert first.name != other.name
    assert first.name.removesuffix(".jpg").isalnum()


def test_arrays_that_come_and_go_are_not_mixed_up() -> None:
    shelf = PictureShelf()
    names = {shelf.find(np.full((8, 8, 3), value, np.uint8)).name for value in range(0, 250, 10)}
    assert len(names) == 25


def test_a_lazy_picture_is_read_once_for_each_key() -> None:
    reads = []

    def load() -> np.ndarray:
        reads.append(1)
        return np.zeros((8, 8, 3), np.uint8)

    shelf = PictureShelf()
    for _ in range(3):
        shelf.find(LazyPicture(load=load, shape=(8, 8, 3), key=("test", 4)))
    assert len(reads) == 1
    assert np.asarray(LazyPicture(load=load, shape=(8, 8, 3), key=0)).shape == (8, 8, 3)
