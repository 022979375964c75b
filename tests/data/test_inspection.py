"""What is said of a data folder is what is in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from protokern.data.inspection import inspect_data
from protokern.errors import DataError
from tests.data.published_data import write_cub
from tests.data.test_copies import scene


def write_photos(root: Path) -> Path:
    """Ten scenes, of 96 x 96 pixels where nothing else is said."""
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        for label, name in enumerate(("gull", "owl")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                scene(len(name) + 10 * number + 100 * label + 1000 * len(split)).save(folder / f"{number}.png")
    return root


def test_images_are_counted_by_class_size_mode_and_format(tmp_path: Path) -> None:
    root = write_photos(tmp_path)
    Image.open(root / "train/owl/2.png").convert("L").resize((50, 70)).save(root / "train/owl/2.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    scene(77).resize((40, 20)).save(root / "test/gull/turned.jpg", exif=turned)
    found = inspect_data(root)
    assert found.classes == ("gull", "owl")
    assert found.counts == {"train": (3, 3), "val": (1, 1), "test": (2, 1)}
    assert sorted(found.sizes) == sorted([(50, 70), (20, 40), *[(96, 96)] * 9])
    assert found.turned == 1
    assert found.modes == {"RGB": 10, "L": 1}
    assert found.formats == {"PNG": 10, "JPEG": 1}
    assert found.problem is None
    assert all(one.images == {} for one in found.marked.values())
    assert [one.file for one in found.marked.values()] == ["boxes.csv", "masks/", "parts.csv"]


def test_unreadable_files_are_named_and_left_out(tmp_path: Path) -> None:
    root = write_photos(tmp_path)
    (root / "train/gull/broken.png").write_bytes(b"no image")
    found = inspect_data(root)
    assert found.counts["train"] == (3, 3)
    assert any(note.startswith("skipped 1 unreadable file: ") and "broken.png" in note for note in found.notes)


def test_annotations_are_counted_by_image_and_by_name(tmp_path: Path) -> None:
    root = write_cub(tmp_path / "data")
    found = inspect_data(root)
    assert {kind: dict(one.images) for kind, one in found.marked.items()} == {
        kind: {"train": 6, "val": 2, "test": 4} for kind in ("boxes", "masks", "parts")
    }
    assert found.marked["boxes"].names == {"bird": 12}
    assert found.marked["parts"].names == {"back": 12}
    assert found.marked["masks"].file == "segmentations/"


@pytest.mark.parametrize("is_mask", [False, True], ids=["table", "mask"])
def test_annotations_that_cannot_be_used_are_a_finding(tmp_path: Path, is_mask: bool) -> None:
    root = write_photos(tmp_path)
    if is_mask:
        (root / "masks/train/gull").mkdir(parents=True)
        Image.new("L", (9, 9)).save(root / "masks/train/gull/0.png")
    else:
        (root / "boxes.csv").write_text("path,label,xmin,ymin,xmax,ymax\ntrain/gull/0.png,bird,1,1,800,8\n")
    found = inspect_data(root)
    assert found.problem is not None
    assert ("must have the pixels of its image" if is_mask else "boxes.csv, line 2: must lie in") in found.problem
    assert found.counts["train"] == (3, 3)


def test_leaks_between_splits_and_classes_are_named(tmp_path: Path) -> None:
    root = write_photos(tmp_path)
    shutil.copy(root / "train/gull/0.png", root / "test/gull/same.png")
    Image.open(root / "train/gull/1.png").save(root / "train/owl/again.jpg", quality=80)
    found = "\n".join(inspect_data(root).warnings)
    assert "1 of 3 test images is a training image (1 by their bytes): test/gull/same.png is train/gull/0.png" in found
    assert "1 of 7 training images is in another class too (1 nearly identical" in found
    assert "train/owl/again.jpg is train/gull/1.png" in found


def test_class_folders_alone_are_split_as_a_training_would(tmp_path: Path) -> None:
    for label, name in enumerate(("gull", "owl")):
        (tmp_path / name).mkdir()
        for number in range(5):
            scene(50 * label + number).save(tmp_path / name / f"{number}.png")
    found = inspect_data(tmp_path)
    assert [sum(of) for of in zip(*found.counts.values(), strict=True)] == [5, 5]
    assert not any("run folder" in note for note in found.notes)


@pytest.mark.parametrize("place", ["synthetic-birds", "webdataset:nowhere"])
def test_what_is_no_folder_is_refused(place: str) -> None:
    with pytest.raises(DataError, match=f"data: must be a folder of images; got {place}. Give the folder."):
        inspect_data(Path(place))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which does not exist"):
        inspect_data(tmp_path / "nowhere")
