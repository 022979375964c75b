"""What is said of data that can be read and still mislead."""

from __future__ import annotations

import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.data import Splits, SyntheticBirds, data_warnings, open_splits
from tests.data.test_copies import scene


def photos(root: Path, counts: dict[str, dict[str, int]], first: int = 0) -> Path:
    """Scenes, all different: {split: {class: number}}."""
    seed = first
    for split, classes in counts.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                scene(seed).save(root / split / name / f"{number}.png")
    return root


GOOD = {"train": {"hat": 10, "dress": 10}, "val": {"hat": 2, "dress": 2}, "test": {"hat": 10, "dress": 10}}


def warnings_of(root: Path | str) -> tuple[str, ...]:
    return data_warnings(open_splits(root, image_size=32))


def test_good_data_have_no_warnings(tmp_path: Path) -> None:
    assert warnings_of(photos(tmp_path / "d", GOOD)) == ()


def test_test_images_that_are_training_images_are_counted_and_named(tmp_path: Path) -> None:
    root = photos(tmp_path / "d", GOOD)
    shutil.copy(root / "train" / "hat" / "3.png", root / "test" / "hat" / "same.png")
    Image.open(root / "train" / "hat" / "4.png").save(root / "test" / "dress" / "again.jpg", quality=80)
    Image.open(root / "val" / "hat" / "0.png").resize((60, 60)).save(root / "test" / "hat" / "small.png")
    shutil.copy(root / "train" / "dress" / "0.png", root / "val" / "dress" / "same.png")
    training, validation, choice = warnings_of(root)
    assert training == (
        "2 of 23 test images are training images (1 by their bytes, 1 nearly identical, as if saved again or resized): "
        "test/dress/again.jpg is train/hat/4.png, test/hat/same.png is train/hat/3.png. 1 of them is there in another "
        "class. The test accuracy is too optimistic: remove them from one of the two."
    )
    assert validation.startswith("1 of 23 test images is a validation image (1 nearly identical")
    assert choice.startswith("1 of 5 validation images is a training image (1 by their bytes): val/dress/same.png is ")


def test_images_of_two_classes_are_counted_and_named(tmp_path: Path) -> None:
    root = photos(tmp_path / "d", GOOD)
    shutil.copy(root / "train" / "dress" / "3.png", root / "train" / "hat" / "same.png")
    Image.open(root / "train" / "dress" / "4.png").save(root / "train" / "hat" / "again.jpg", quality=80)
    shutil.copy(root / "train" / "hat" / "0.png", root / "train" / "hat" / "double.png")  # of one class
    (warning,) = warnings_of(root)
    assert warning == (
        "2 of 23 training images are in another class too (1 by their bytes, 1 nearly identical, as if saved again or "
        "resized): train/hat/again.jpg is train/dress/4.png, train/hat/same.png is train/dress/3.png. At most one of "
        "the two classes is right: leave each image in one class."
    )


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_copies_are_found_among_images_of_any_channels(tmp_path: Path, channels: int) -> None:
    root = photos(tmp_path / "d", GOOD)
    Image.open(root / "train" / "hat" / "4.png").resize((60, 60)).save(root / "test" / "hat" / "small.png")
    (warning,) = data_warnings(open_splits(root, image_size=32, channels=channels))
    assert warning.startswith("1 of 21 test images is a training image (1 nearly identical")


def test_copies_and_sizes_are_found_among_images_of_more_than_8_bits(tmp_path: Path) -> None:
    root = photos(tmp_path / "d", GOOD)
    for path in sorted(root.rglob("*.png")):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        scan = Image.fromarray(grey)
        (scan.crop((0, 0, 40, 40)) if path.parent.name == "hat" else scan).save(path)
    shutil.copy(root / "train" / "hat" / "3.png", root / "test" / "hat" / "same.png")
    copy, size = data_warnings(open_splits(root, image_size=32))
    assert copy.startswith("1 of 21 test images is a training image (1 by their bytes): test/hat/same.png is")
    assert "2 of 2 classes can be told by the size" in size


def test_sizes_that_give_a_class_away_are_named(tmp_path: Path) -> None:
    root = photos(tmp_path / "d", GOOD)
    for path in (root / "train" / "hat").iterdir():
        Image.open(path).resize((50, 70)).convert("L").save(path)
    size, mode = warnings_of(root)
    assert size == (
        "2 of 2 classes can be told by the size of their training images alone: dress (96 x 96 pixels), hat (50 x 70 "
        "pixels). The net may learn that instead of what the images show. Bring all images to one size before "
        "training."
    )
    assert mode.startswith(
        "2 of 2 classes can be told by the mode of their training images alone: dress (of mode RGB), "
    )


def test_rare_classes_are_named(tmp_path: Path) -> None:
    counts = {"train": {"common": 30, "rare": 3}, "val": {"common": 1, "rare": 1}, "test": {"common": 10, "rare": 1}}
    few, few_tests, rare = warnings_of(photos(tmp_path / "d", counts))
    assert few == (
        "1 of 2 classes has fewer than 10 training images: rare (3). Add images, or leave the class out: so few may "
        "show what is not typical of the class."
    )
    assert few_tests.startswith("1 of 2 classes has fewer than 10 test images: rare (1). One answer moves the recall")
    assert rare.startswith("1 of 2 classes has at most a tenth of the training images of common (30): rare (3). ")


def test_images_in_tar_files_are_looked_at_as_well(tmp_path: Path) -> None:
    for split, seeds in (("train", range(4)), ("test", (2, 9))):
        with tarfile.open(tmp_path / f"{split}-0.tar", "w") as archive:
            for number, seed in enumerate(seeds):
                image = BytesIO()
                scene(seed).save(image, "PNG")
                for suffix, content in (("png", image.getvalue()), ("cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(f"{number}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, BytesIO(content))
    found = warnings_of(f"webdataset:{tmp_path}")
    copies = [text for text in found if "test images is a" in text]
    assert len(copies) == 1
    assert "(1 by their bytes): test-0.tar/0.png is train-0.tar/2.png" in copies[0]


class UnseenBirds(SyntheticBirds):
    def render(self, index: int, size: tuple[int, int]) -> np.ndarray:
        pytest.fail("birds are painted, not read")


def test_painted_birds_are_not_looked_at() -> None:
    train, val, test = (
        UnseenBirds(split, num_classes=2, images_per_class=count, image_size=16)
        for split, count in (("train", 10), ("val", 1), ("test", 10))
    )
    assert data_warnings(Splits(train, train, val, test, train.classes)) == ()


def test_more_images_than_are_looked_at_are_said(tmp_path: Path) -> None:
    splits = open_splits(photos(tmp_path / "d", GOOD), image_size=32)
    (unknown,) = data_warnings(splits, most_images=40)
    assert unknown.startswith(
        "44 images are more than the 40 among which copies are looked for: whether test images are"
    )
