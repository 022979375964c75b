"""A folder of class folders alone is split once, by classes, and images that are nearly the same stay together."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from protokern.data import Splits, data_warnings, open_splits
from protokern.data.likeness import group_alike
from protokern.data.own_split import OwnSplit
from protokern.errors import DataError


def picture(seed: int, size: int = 48) -> Image.Image:
    """A soft picture of large forms, as photographs are; another one for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)


def make_classes(root: Path, **counts: int) -> Path:
    for k, (name, count) in enumerate(counts.items()):
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(count):
            picture(1000 * k + i).save(folder / f"{i:02}.png")
    return root


def opened(root: Path, *, own_split: OwnSplit | None = None, seed: int = 0, **options: Any) -> Splits:
    return open_splits(root, image_size=8, augmentation="none", seed=seed, own_split=own_split, **options)


def names(splits: Splits) -> dict[str, set[str]]:
    sets = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {name: {data.sample_name(i) for i in range(len(data))} for name, data in sets.items()}


def test_every_class_is_split_in_the_same_shares(tmp_path: Path) -> None:
    splits = opened(make_classes(tmp_path, gull=20, owl=10))
    assert splits.classes == ["gull", "owl"]
    assert Counter(splits.test.labels) == {0: 4, 1: 2}
    assert Counter(splits.val.labels) == {0: 2, 1: 1}
    assert Counter(splits.train.labels) == {0: 14, 1: 7}
    assert splits.notes[0] == "data: 30 files: 21 training, 3 validation, 6 test"
    assert "for the test 6 of 30 images (20% of each class)" in splits.notes[1]
    assert (
        "for the validation 3 of the others (12% of each class, as near to 10% as whole images come)" in splits.notes[1]
    )
    parts = names(splits)
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 30


def test_the_seed_chooses_and_the_same_seed_chooses_the_same(tmp_path: Path) -> None:
    root = make_classes(tmp_path, gull=12, owl=12)
    assert names(opened(root, seed=3)) == names(opened(root, seed=3))
    assert names(opened(root, seed=3)) != names(opened(root, seed=4))


def test_other_shares(tmp_path: Path) -> None:
    splits = opened(make_classes(tmp_path, gull=10, owl=10), test_fraction=0.5, val_fraction=0.4)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (6, 4, 10)
    with pytest.raises(ValueError, match="test_fraction: must be between 0 and 1; got 1"):
        opened(tmp_path, test_fraction=1)


def copies(image: Image.Image) -> dict[str, Image.Image | bytes]:
    """The same picture in other clothes."""
    low = io.BytesIO()
    image.save(low, "JPEG", quality=60)
    return {
        "larger.png": image.resize((150, 150), Image.Resampling.BICUBIC),
        "low.jpg": low.getvalue(),
        "brighter.png": ImageEnhance.Brightness(image).enhance(1.01),
    }


def test_images_that_are_nearly_the_same_stay_together(tmp_path: Path) -> None:
    root = make_classes(tmp_path, gull=12, owl=12)
    for number in range(4):
        for name, copy in copies(picture(number)).items():
            path = root / "gull" / f"{number:02}-{name}"
            path.write_bytes(copy) if isinstance(copy, bytes) else copy.save(path)
    for seed in range(6):
        splits = opened(root, seed=seed)
        parts = names(splits)
        for number in range(4):
            group = {f"gull/{number:02}.png", *(f"gull/{number:02}-{name}" for name in copies(picture(0)))}
            assert sum(bool(part & group) for part in parts.values()) == 1
        assert Counter(splits.train.labels)[0] > 0
        assert any(note.startswith("16 images are nearly the same as others, in 4 groups") for note in splits.notes)


def test_one_image_in_two_classes_is_in_training_and_told(tmp_path: Path) -> None:
    root = make_classes(tmp_path, gull=6, owl=6)
    picture(0).save(root / "owl/copy.png")
    splits = opened(root)
    assert {"gull/00.png", "owl/copy.png"} <= names(splits)["train"]
    assert any(note.startswith("1 of these groups have images of several classes") for note in splits.notes)


def test_small_classes_keep_training_images(tmp_path: Path) -> None:
    splits = opened(make_classes(tmp_path, gull=8, one=1, three=3, two=2))
    assert Counter(splits.train.labels) == {0: 5, 1: 1, 2: 1, 3: 1}
    assert Counter(splits.test.labels) == {0: 2, 2: 1, 3: 1}
    assert "no test image of one: too few images that are not nearly the same" in splits.notes
    assert "no validation image of one, two: too few images that are not nearly the same" in splits.notes


def test_a_class_of_copies_stays_in_training(tmp_path: Path) -> None:
    root = make_classes(tmp_path, gull=8, owl=1)
    for i in range(5):
        picture(1000).save(root / f"owl/copy{i}.png")
    assert Counter(opened(root).train.labels)[1] == 6


def test_a_split_that_is_written_down_stays_when_files_come(tmp_path: Path) -> None:
    root = make_classes(tmp_path, gull=10, owl=10)
    first = opened(root)
    assert first.own_split is not None
    for i in range(5):
        picture(5000 + i).save(root / f"gull/0{i}-new.png")
    later = opened(root, own_split=first.own_split)
    assert names(later) == names(first)
    assert later.notes[0].endswith(
        "5 not counted: 5 new since the run was split (gull/00-new.png, gull/01-new.png, gull/02-new.png ...)"
    )
    (root / "owl/03.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 20: owl/03.png. Put them back, or train a new run"):
        opened(root, own_split=first.own_split)


def test_another_folder_is_split_anew(tmp_path: Path) -> None:
    first = opened(make_classes(tmp_path / "a", gull=10, owl=10))
    other = make_classes(tmp_path / "b", gull=10, owl=10)
    for path in sorted(other.rglob("*.png")):
        path.rename(path.with_name(f"b{path.name}"))
    assert any("split automatically" in note for note in opened(other, own_split=first.own_split).notes)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    splits = opened(make_classes(tmp_path, bus=5, train=5))
    assert splits.classes == ["bus", "train"]


def test_flat_pictures_of_several_colours_are_several_pictures() -> None:
    flat = [np.full((32, 32, 3), value, dtype=np.uint8) for value in (0, 60, 61, 120, 255)]
    assert group_alike(flat) == [0, 1, 1, 3, 4]
    assert group_alike([]) == []


def test_pictures_are_compared_as_by_looking_at_every_pair() -> None:
    rng = np.random.default_rng(5)
    base = [np.asarray(picture(seed, 32)) for seed in range(20)]
    noisy = [np.clip(base[i] + rng.integers(-2, 3, base[i].shape), 0, 255).astype(np.uint8) for i in range(0, 20, 4)]
    assert group_alike([*base, *noisy]) == [*range(20), *range(0, 20, 4)]


@pytest.mark.parametrize("light", [1.03, 1.05])
def test_no_warning_speaks_of_copies_across_a_split_by_itself(tmp_path: Path, light: float) -> None:
    root = make_classes(tmp_path, gull=12, owl=12)
    for path in sorted(root.rglob("*.png")):
        with Image.open(path) as image:
            ImageEnhance.Brightness(image).enhance(light).save(path.with_name(f"x{path.name}"))
    splits = opened(root)
    assert not [warning for warning in data_warnings(splits) if "nearly identical" in warning]
    assert any(note.startswith("48 images are nearly the same as others, in 24 groups") for note in splits.notes)
