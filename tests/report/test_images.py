from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from protokern.report.images import LONGEST_SIDE, crop, to_data_uri


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_small_pictures_keep_their_size_and_look() -> None:
    picture = np.full((40, 60, 3), (200, 100, 50), np.uint8)
    image = decode(to_data_uri(picture))
    assert image.size == (60, 40)
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - picture).max() <= 4


def test_large_pictures_are_shrunk_with_their_proportions() -> None:
    assert decode(to_data_uri(np.zeros((600, 1200, 3), np.uint8))).size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert decode(to_data_uri(np.zeros((4000, 2, 3), np.uint8))).size == (1, LONGEST_SIDE)


def test_a_hundred_prototypes_stay_small() -> None:
    """A noisy picture is the worst case: a hundred prototypes with three views and their pairs stay below 15 MB."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(28, 28, 3)).repeat(8, axis=0).repeat(8, axis=1)
    picture = np.clip(128 + 40 * smooth + 8 * rng.normal(size=(224, 224, 3)), 0, 255).astype(np.uint8)
    assert len(to_data_uri(picture)) * (2 * 100 + 12 * 8 * 4) < 15e6


def test_a_crop_is_half_open() -> None:
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    assert (crop(picture, (1, 2, 3, 5)) == picture[1:3, 2:5]).all()
