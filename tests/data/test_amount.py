"""Counting images without opening one."""

from __future__ import annotations

from pathlib import Path

import pytest

from protokern.data import BirdCounts
from protokern.data.amount import Amount, count_images
from protokern.errors import DataError

BIRDS = BirdCounts(num_classes=3, train_per_class=5, val_per_class=1, test_per_class=2)


def fill(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.jpg").touch()  # no image, and never opened


def count(path: object) -> Amount:
    return count_images(str(path), test_fraction=0.2, birds=BIRDS)


def test_a_folder_with_splits_counts_what_it_learns_from(tmp_path: Path) -> None:
    for split, number in (("train", 6), ("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            fill(tmp_path / split / name, number)
    assert count(tmp_path) == Amount(images=12, classes=2, total=22)


def test_of_a_folder_of_classes_the_test_takes_its_share(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 10)
    fill(tmp_path / "dog", 20)
    fill(tmp_path / "owl", 5)
    assert count(tmp_path) == Amount(images=28, classes=3, total=35)


@pytest.mark.parametrize("path", ["", "synthetic-birds"])
def test_birds_are_as_many_as_the_settings_say(path: str) -> None:
    assert count(path) == Amount(images=15, classes=3, total=24)


def test_an_unusable_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which does not exist"):
        count(tmp_path / "nowhere")
