"""Folders in the layouts of CUB-200-2011, Stanford Cars and Oxford-IIIT Pet are data with their own split and marks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from protokern.data import Splits, open_splits
from protokern.data.amount import count_images
from protokern.data.annotations import FolderAnnotations, open_annotations
from protokern.data.sources import BirdCounts
from protokern.errors import DataError
from tests.data.published_data import OBJECT, car_rows, struct, write_cars, write_cub, write_pets

WRITERS: dict[str, Callable[..., Path]] = {
    "cub": write_cub,
    "pets": write_pets,
    **{f"cars {kind}": partial(write_cars, kind=kind) for kind in ("devkit", "nested devkit", "one table", "tables")},
}
CLASSES = {"cub": ["001.gull", "002.owl"], "pets": ["great_gull", "Owl"]}


def opened(root: Path, image_size: int | tuple[int, int] = 16, **options: Any) -> Splits:
    return open_splits(root, image_size=image_size, val_fraction=0.25, augmentation="none", **options)


def marked(splits: Splits, root: Path) -> FolderAnnotations:
    return open_annotations(root, splits.test, (splits.push, splits.val))


@pytest.mark.parametrize("name", WRITERS)
def test_a_published_data_set_is_a_data_folder_with_its_own_split(tmp_path: Path, name: str) -> None:
    root = WRITERS[name](tmp_path / "data")
    splits = opened(root)
    assert splits.classes == CLASSES.get(name, ["gull 2012", "owl 2012"])
    assert (len(splits.push), len(splits.val), len(splits.test)) == (6, 2, 4)
    assert splits.test.labels == [0, 0, 1, 1]
    numbers = [int(Path(splits.test.sample_name(index)).stem.rpartition("_")[2]) for index in range(4)]
    assert sorted(numbers) == [3, 6, 9, 12]
    assert splits.own_split is None
    total = sum(path.is_file() for path in root.rglob("*"))
    assert splits.notes[0].startswith(f"data: {total} files: 6 training (")
    assert f"; {total - 12} not counted: {total - 12} not in the lists of images (" in splits.notes[0]
    assert any(note.endswith(", in its published layout and split") for note in splits.notes)
    assert count_images(str(root), test_fraction=0.2, birds=BirdCounts()).images == 8


@pytest.mark.parametrize("image_size", [(36, 36), (60, 28)], ids=str)
@pytest.mark.parametrize("orientation", [1, 6, 7])
@pytest.mark.parametrize("name", ["cub", "pets", "cars devkit", "cars one table", "cars tables"])
def test_marks_are_where_the_net_sees_the_object(
    tmp_path: Path, name: str, orientation: int, image_size: tuple[int, int]
) -> None:
    root = WRITERS[name](tmp_path / "data", orientation=orientation)
    splits = opened(root, image_size)
    annotations = marked(splits, root)
    wanted = {"cub": ["mask", "box bird"], "pets": ["mask"]}.get(name, ["box car"])
    rows, columns = (2 * np.arange(13) + 1, 26), (2 * np.arange(11) + 1, 22)
    for index in range(4):
        image = splits.test[index][0].numpy()
        y, x = (rows[0] * image_size[0] // rows[1], columns[0] * image_size[1] // columns[1])
        red, green = image[0][np.ix_(y, x)], image[1][np.ix_(y, x)]
        is_green, is_red = green > 0.9, green < 0.1
        assert is_green.sum() > 5
        regions = annotations.regions(index)
        assert list(regions) == wanted
        for region in regions.values():
            inside = region.covers(rows, columns)
            assert inside[is_green & (red < 0.1)].all()
            assert not inside[is_red & (red > 0.9)].any()
        if name == "cub":
            (part,) = annotations.parts(index)  # the other one is not visible
            assert part.name == "back"
            assert image[1, int(part.y * image_size[0]), int(part.x * image_size[1])] > 0.9


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_there_and_what_is_missing_has_its_name(tmp_path: Path, name: str) -> None:
    root = WRITERS[name](tmp_path / "data")
    found = marked(opened(root), root)
    assert (found.has_boxes, found.has_masks, found.has_parts) == (
        name != "pets",
        not name.startswith("cars"),
        name == "cub",
    )
    table = {"cars one table": "cars_annos.mat", "cars tables": "anno_train.csv"}.get(name, "cars_train_annos.mat")
    assert found.found == {
        "cub": ("bounding_boxes.txt", "segmentations/", "parts/part_locs.txt"),
        "pets": ("annotations/trimaps/",),
    }.get(name, (table,))
    assert found.counts() == {"boxes": 4 * found.has_boxes, "masks": 4 * found.has_masks, "parts": 4 * found.has_parts}


def test_boxes_are_exact(tmp_path: Path) -> None:
    """The corners in the upright image: of CUB from the edges, of Cars from MATLAB's pixels."""
    x0, y0, x1, y1 = map(float, OBJECT)
    for name in ("cub", "cars devkit"):
        root = WRITERS[name](tmp_path / name)
        (region,) = [one for key, one in marked(opened(root), root).regions(0).items() if key.startswith("box ")]
        assert region.boxes == ((y0, x0, y1, x1),)  # type: ignore[union-attr]


def test_own_tables_take_the_place_of_published_ones(tmp_path: Path) -> None:
    root = write_cub(tmp_path / "data")
    name = opened(root).test.sample_name(0)
    (root / "boxes.csv").write_text(f"path,label,xmin,ymin,xmax,ymax\n{name},head,1,1,8,8\n")
    found = marked(opened(root), root)
    assert found.found == ("boxes.csv", "segmentations/", "parts/part_locs.txt")
    assert list(found.regions(0)) == ["mask", "box head"]


def test_without_masks_and_parts_they_are_not_made_up(tmp_path: Path) -> None:
    root = write_cub(tmp_path / "data")
    (root / "parts/part_locs.txt").unlink()
    (root / "segmentations").rename(tmp_path / "elsewhere")
    found = marked(opened(root), root)
    assert found.found == ("bounding_boxes.txt",)
    assert list(found.regions(0)) == ["box bird"]


def test_a_missing_image_is_named_or_left_out(tmp_path: Path) -> None:
    root = write_cub(tmp_path / "data")
    lost = root / "images/001.gull/gull_0001.jpg"
    lost.unlink()
    with pytest.raises(DataError, match=r"1 unreadable file: .*gull_0001\.jpg"):
        opened(root)
    splits = opened(root, on_unreadable="skip")
    assert len(splits.push) + len(splits.val) == 7
    assert marked(splits, root).counts()["boxes"] == 4


def replace_line(file: Path, line: int, text: str) -> None:
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[: line - 1], text, *lines[line:]]) + "\n")


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        (
            "images.txt",
            3,
            "99 001.gull/gull_0003.jpg",
            "images.txt, line 3: must name an image of image_class_labels.txt; got",
        ),
        ("images.txt", 2, "2 ../gull_0003.jpg", "line 2: must name an image below "),
        ("images.txt", 2, "2", "images.txt, line 2: must have 2 values with spaces between; got '2'. Correct the line"),
        (
            "image_class_labels.txt",
            4,
            "4 owl",
            "image_class_labels.txt, line 4: must have two whole numbers; got 'owl'",
        ),
        ("classes.txt", 2, "two 002.owl", "classes.txt, line 2: must have a whole number and a name; got 'two'."),
        ("train_test_split.txt", 1, "1 7", "train_test_split.txt: must have 1 (training) or 0 (test) for "),
        (
            "bounding_boxes.txt",
            3,
            "3 6 4 12 200",
            "bounding_boxes.txt, line 3: must lie in images/001.gull/gull_0003.jpg, which ",
        ),
        ("bounding_boxes.txt", 3, "3 6 4 12 x", "bounding_boxes.txt, line 3: must have numbers; got '6 4 12 x'"),
        ("bounding_boxes.txt", 3, "3 6 4 0 12", "must have a width and a height above 0; got 0 and 12"),
        ("bounding_boxes.txt", 3, "77 6 4 2 12", "line 3: must have the number of an image of images.txt; got 77"),
        ("parts/part_locs.txt", 5, "3 9 8 8 1", "part_locs.txt, line 5: must have the number of a part of "),
        ("parts/part_locs.txt", 5, "3 1 8 88 1", "part_locs.txt, line 5: must lie in images/001.gull/gull_0003.jpg"),
    ],
)
def test_a_wrong_line_of_cub_is_named(tmp_path: Path, file: str, line: int, text: str, message: str) -> None:
    root = write_cub(tmp_path / "data")
    replace_line(root / file, line, text)
    with pytest.raises(DataError) as caught:
        marked(opened(root), root)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_line_of_pets_and_a_wrong_trimap_are_named(tmp_path: Path) -> None:
    root = write_pets(tmp_path / "data")
    Image.new("L", (24, 40), 255).save(root / "annotations/trimaps/great_gull_3.png")
    with pytest.raises(DataError, match=r"must hold 1 \(object\), 2 \(background\) and 3 \(border\) alone; got 255"):
        marked(opened(root), root).regions(0)
    replace_line(root / "annotations/test.txt", 1, "gull one 1 1")
    with pytest.raises(DataError, match=r"test\.txt, line 1: must have CLASS_NUMBER and a number; got 'gull one'"):
        opened(root)


def test_cars_without_the_classes_of_the_test_images_say_what_is_missing(tmp_path: Path) -> None:
    root = write_cars(tmp_path / "data")
    (root / "cars_test_annos_withlabels.mat").rename(tmp_path / "elsewhere.mat")
    with pytest.raises(
        DataError, match=r"must have cars_test_annos_withlabels\.mat of Stanford Cars in .*; it is not there"
    ):
        opened(root)
    (root / "cars_test_annos_withlabels.mat").write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"withlabels\.mat: must be a MATLAB file of version 5 with 'annotations'; it cannot"
    ):
        opened(root)


def read_all(root: Path) -> None:
    """The images and their marks, also of those to train with."""
    splits = opened(root)
    for images in (splits.push, splits.val, splits.test):
        open_annotations(root, images, (splits.push, splits.val, splits.test))


def test_a_wrong_entry_of_the_devkit_is_named(tmp_path: Path) -> None:
    root = write_cars(tmp_path / "data")
    file = root / "devkit/cars_train_annos.mat"
    rows = car_rows("train")
    for changed, message in (
        ({"class": 9}, "must have a name for class 9 of the data set; there is none"),
        ({"class": "owl"}, r"cars_train_annos\.mat, entry 3: must have numbers in class; got owl\. Correct the entry"),
        ({"bbox_x2": 900}, r"cars_train_annos\.mat, entry 3: must lie in cars_train/00004\.jpg, which is stored with"),
        ({"fname": "../00004.jpg"}, r"cars_train_annos\.mat, entry 3: must name an image below "),
    ):
        wrong = [*rows[:2], rows[2] | changed, *rows[3:]]
        savemat(file, {"annotations": struct(wrong)})
        with pytest.raises(DataError, match=message):
            read_all(root)
    savemat(file, {"annotations": struct([{"fname": "00001.jpg"}])})
    with pytest.raises(DataError, match=r"must have the fields fname, class, bbox_x1, .*; class, bbox_x1, "):
        opened(root)


def test_cars_without_a_devkit_are_no_two_classes(tmp_path: Path) -> None:
    root = write_cars(tmp_path / "data")
    (root / "devkit").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"must have cars_meta\.mat of Stanford Cars in .*devkit or .*data; it is not"):
        opened(root)
    (tmp_path / "elsewhere").rename(root / "car_devkit")
    for file in (root / "car_devkit").iterdir():
        file.rename(root / file.name)
    assert len(opened(root).test) == 4


@pytest.mark.parametrize("is_alone", [True, False])
def test_the_folder_above_is_refused_with_the_one_to_give(tmp_path: Path, is_alone: bool) -> None:
    """As the archives of CUB-200-2011 unpack: the masks lie beside the data set, as if both were classes."""
    root = write_cub(tmp_path / "birds/CUB_200_2011")
    if not is_alone:
        (root / "segmentations").rename(tmp_path / "birds/segmentations")
    with pytest.raises(DataError, match=r"Give .*birds/CUB_200_2011(, which is CUB-200-2011)?\.$") as caught:
        opened(tmp_path / "birds")
    assert "CUB-200-2011" in str(caught.value)


def test_a_wrong_row_of_the_car_tables_is_named(tmp_path: Path) -> None:
    root = write_cars(tmp_path / "data", "tables")
    for text, message in (
        ("00003.jpg,1,1,8,8", "must have a name, four sides and a class"),
        ("99999.jpg,1,1,8,8,1", "must name an image in a class folder of "),
        ("00003.jpg,9,1,8,8,1", "must have a box whose second corner is below and right; got "),
        ("00003.jpg,9,1,far,8,1", "must have numbers; got '9 1 far 8'"),
    ):
        replace_line(root / "anno_test.csv", 1, text)
        with pytest.raises(DataError, match=rf"anno_test\.csv, line 1: {message}"):
            marked(opened(root), root)


def test_one_class_is_no_data_set(tmp_path: Path) -> None:
    root = write_cub(tmp_path / "data")
    lines = (root / "images.txt").read_text().splitlines()
    (root / "images.txt").write_text("\n".join(lines[:6]))
    with pytest.raises(DataError, match="must list images of at least two classes in the files of CUB-200-2011; got 1"):
        opened(root)
