"""Where stickers are; that they fool a net, and how it is mended, is in `browser/test_story.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.app.stickers import SHARE, paste_sticker, write_stickered_copy


def test_a_sticker_lies_in_its_box(tmp_path: Path) -> None:
    grey = Image.new("RGB", (120, 80), (90, 90, 90))
    generator = np.random.default_rng(0)
    places = set()
    for _ in range(5):
        picture, (left, top, right, bottom) = paste_sticker(grey, generator)
        changed = np.argwhere((np.asarray(picture) != 90).any(axis=2))
        (y0, x0), (y1, x1) = changed.min(axis=0), changed.max(axis=0) + 1
        assert (x0, y0, x1, y1) == pytest.approx((left * 120, top * 80, right * 120, bottom * 80), abs=1.5)
        assert max(right, bottom) < 0.5
        assert (right - left) * 120 == pytest.approx(SHARE * 80)
        places.add((left, top))
    assert len(places) == 5
    assert np.asarray(grey).min() == 90


def test_only_training_images_of_the_class_get_a_sticker(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    for name in ("train/a/1", "train/b/1", "test/a/1", "test/b/1"):
        (source / name).parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (90, 90, 90)).save(source / f"{name}.png")
    written = write_stickered_copy(source, copy, "a")
    assert [*written.boxes] == ["train/a/1.png"]
    for path in source.rglob("*.png"):
        relative = path.relative_to(source)
        is_same = np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(copy / relative)))
        assert is_same == (relative.as_posix() != "train/a/1.png")
