"""Boxes, masks and parts follow their images through all that is done to them; a mistake has a file and a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from protokern.data import PhotoDataset, Splits, open_splits
from protokern.data.annotations import open_annotations
from protokern.data.masks import read_mask
from protokern.data.orientation import upright_pixels, upright_points
from protokern.errors import DataError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def write_photo(
    path: Path, size: tuple[int, int], boxes: list[tuple[int, int, int, int]], orientation: int = 1
) -> None:
    """An image of `size` (columns, rows), red, and green in the boxes (x0, y0, x1, y1) of its stored pixels."""
    pixels = np.full((size[1], size[0], 3), RED, dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = GREEN
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)


def write_folder(root: Path, **table: str) -> Path:
    """Two images a class and split of 40 x 24 pixels, and tables by their names."""
    for split in ("train", "test"):
        for name in ("gull", "owl"):
            for number in range(2):
                write_photo(root / split / name / f"{number}.png", (40, 24), [(4 + number, 4, 30, 12)])
    for name, text in table.items():
        (root / f"{name}.csv").write_text(text)
    return root


def open_folder(root: Path, image_size: int | tuple[int, int] = 16) -> Splits:
    return open_splits(root, image_size=image_size, val_fraction=0.5, augmentation="none")


def seen_green(dataset: PhotoDataset, index: int, points: list[tuple[float, float]]) -> list[bool | None]:
    """Whether the net sees green at places (y, x), shares of the image's sides; None where colours run together."""
    image = dataset[index][0].numpy()
    found: list[bool | None] = []
    for y, x in points:
        red, green, _ = image[:, int(y * image.shape[1]), int(x * image.shape[2])]
        found.append(True if green > 0.95 else False if red > 0.95 else None)
    return found


@pytest.mark.parametrize("image_size", [(36, 36), (60, 28)], ids=str)
@pytest.mark.parametrize("stored", [(90, 50), (48, 96)], ids=["landscape", "portrait"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_are_where_the_net_sees_what_they_mark(
    tmp_path: Path, orientation: int, stored: tuple[int, int], image_size: tuple[int, int]
) -> None:
    boxes = [(8, 6, 30, 22), (33, 31, 45, 47)]
    photo = tmp_path / "test/gull/0.png"
    write_photo(photo, stored, boxes, orientation)
    lines = [f"test/gull/0.png,bird,{x0},{y0},{x1},{y1}" for x0, y0, x1, y1 in boxes]
    (tmp_path / "boxes.csv").write_text("\n".join(["path,label,xmin,ymin,xmax,ymax", *lines]))
    (tmp_path / "parts.csv").write_text(
        "path,part_id,part,x,y\ntest/gull/0.png,1,wing,39,39\ntest/gull/0.png,2,sky,3,3\n"
    )
    mask = np.zeros((stored[1], stored[0]), dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
        mask[y0, x0:x1] = 128  # the border counts
    (tmp_path / "masks/test/gull").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "masks/test/gull/0.png")
    dataset = PhotoDataset([(photo, 0)], ["gull"], root=tmp_path, image_size=image_size)
    annotations = open_annotations(tmp_path, dataset)
    assert annotations.found == ("boxes.csv", "masks/", "parts.csv")
    regions = annotations.regions(0)
    assert list(regions) == ["mask", "box bird"]
    rows, columns = (2 * np.arange(13) + 1, 26), (2 * np.arange(11) + 1, 22)
    places = [((2 * row + 1) / 26, (2 * column + 1) / 22) for row in range(13) for column in range(11)]
    truth = seen_green(dataset, 0, places)
    assert 5 < truth.count(True) < 60
    assert truth.count(None) < 60
    for region in regions.values():
        marked = region.covers(rows, columns).ravel().tolist()
        assert [one for one, seen in zip(marked, truth, strict=True) if seen is not None] == [
            seen for seen in truth if seen is not None
        ]
    parts = annotations.parts(0)
    assert [part.name for part in parts] == ["wing", "sky"]
    assert seen_green(dataset, 0, [(part.y, part.x) for part in parts]) == [True, False]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_and_pixels_are_turned_alike(orientation: int) -> None:
    """The pixel (2, 4) of 5 x 7, and its centre; Pillow's own reading of the orientation is the truth."""
    stored = np.zeros((5, 7), dtype=np.uint8)
    stored[2, 4] = 255
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    truth = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(upright_pixels(stored, orientation), truth)
    y, x = upright_points(np.array([[2.5, 4.5]]), (5, 7), orientation)[0]
    assert truth[int(y), int(x)] == 255


def test_the_border_of_a_mask_counts_and_the_background_does_not(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 128, 255]], dtype=np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (1, 3), orientation=1).tolist() == [[False, True, True]]


def test_what_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    splits = open_folder(write_folder(tmp_path))
    annotations = open_annotations(tmp_path, splits.test)
    assert annotations.found == ()
    assert annotations.regions(0) == {}
    assert annotations.parts(0) == ()


def test_labels_are_kept_apart_and_other_splits_may_be_named(tmp_path: Path) -> None:
    table = (
        "path,label,xmin,ymin,xmax,ymax,remark\n"
        "test/gull/0.png,head,1,1,8,8,\n"
        "test/gull/0.png,bird,1,1,30,20,\n"
        '"train/owl/1.png",bird,1,1,30,20,"a, b"\n'
    )
    splits = open_folder(write_folder(tmp_path, boxes=table))
    annotations = open_annotations(tmp_path, splits.test, (splits.push, splits.val))
    assert sorted(annotations.regions(0)) == ["box bird", "box head"]
    assert annotations.regions(1) == {}


HEAD = "path,label,xmin,ymin,xmax,ymax\n"
GOOD = "test/gull/0.png,bird,1,1,8,8\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + GOOD + "test/gull/9.png,bird,1,1,8,8\n", "boxes.csv, line 3: path must be an image below "),
        (HEAD + "../gull/0.png,bird,1,1,8,8\n", "got '../gull/0.png'. Correct the line, or remove it."),
        (HEAD + GOOD + GOOD + "test/gull/0.png,bird,1,1,41.5,8\n", "boxes.csv, line 4: must lie in test/gull/0.png, "),
        (HEAD + "test/gull/0.png,bird,1,-1.5,4,8\n", "which is stored with 40 x 24 pixels; got 1, -1.5, 4, 8."),
        (HEAD + "test/gull/0.png,bird,1,1,8\n", "boxes.csv, line 2: must have as many values as the first line"),
        (HEAD + "test/gull/0.png,bird,1,1,8,8,9\n", "boxes.csv, line 2: must have as many values as the first line"),
        (HEAD + "test/gull/0.png,bird,1,one,8,8\n", "boxes.csv, line 2: ymin must be a number of pixels; got 'one'."),
        (HEAD + "test/gull/0.png,bird,1,1,inf,8\n", "boxes.csv, line 2: xmax must be a number of pixels; got 'inf'."),
        (
            HEAD + "test/gull/0.png,bird,8,1,8,8\n",
            "line 2: xmin and ymin must be smaller than xmax and ymax; got 8, 1, ",
        ),
        (HEAD + "test/gull/0.png, ,1,1,8,8\n", "boxes.csv, line 2: label must be a name; got nothing."),
        (
            "path,label,xmin,ymin\n",
            "boxes.csv, line 1: must name the columns path, label, xmin, ymin, xmax, ymax; xmax, ",
        ),
        ("", "boxes.csv, line 1: must name the columns"),
        (HEAD + "test/gull/9.png,bird,1,1,8,8\ntest/gull/0.png,bird\n", "1 more line is wrong in this way or another."),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    splits = open_folder(write_folder(tmp_path, boxes=text))
    with pytest.raises(DataError) as caught:
        open_annotations(tmp_path, splits.test)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_point_outside_and_a_turned_file(tmp_path: Path) -> None:
    write_folder(tmp_path, parts="path,part,x,y\ntest/gull/1.png,beak,20,10\ntest/gull/0.png,beak,10,30\n")
    write_photo(tmp_path / "test/gull/0.png", (40, 24), [], orientation=6)
    splits = open_folder(tmp_path)
    with pytest.raises(
        DataError, match=r"parts\.csv, line 3: .*its EXIF orientation turns it only afterwards; got 10, 30"
    ):
        open_annotations(tmp_path, splits.test)


def test_a_pixel_too_far_is_rounding(tmp_path: Path) -> None:
    """Boxes of images that were made smaller end a pixel outside now and then; they are held within."""
    splits = open_folder(write_folder(tmp_path, boxes=HEAD + "test/gull/0.png,bird,-0.7,0,40.9,24.2\n"))
    region = open_annotations(tmp_path, splits.test).regions(0)["box bird"]
    assert region.boxes == ((0.0, 0.0, 24.0, 40.0),)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((24, 40), 3, dtype=np.uint8), "must hold 0 (background), 128 (border) and 255 (object) alone; got 3."),
        (np.zeros((40, 24), dtype=np.uint8), "must have the pixels of its image as stored, 40 x 24; got 24 x 40."),
        (np.zeros((24, 40, 3), dtype=np.uint8), "must be grey with 8 bits; got RGB."),
        (b"no picture", "must be a PNG that can be read; it cannot"),
    ],
)
def test_a_wrong_mask_is_named(tmp_path: Path, mask: np.ndarray | bytes, message: str) -> None:
    splits = open_folder(write_folder(tmp_path))
    path = tmp_path / "masks/test/owl/1.png"
    path.parent.mkdir(parents=True)
    if isinstance(mask, bytes):
        path.write_bytes(mask)
    else:
        Image.fromarray(mask).save(path)
    annotations = open_annotations(tmp_path, splits.test)
    assert annotations.regions(0) == {}
    with pytest.raises(DataError) as caught:
        annotations.regions(3)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_mask_of_no_image_or_of_two_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    masks = tmp_path / "masks/test/owl"
    masks.mkdir(parents=True)
    Image.new("L", (40, 24)).save(masks / "7.png")
    with pytest.raises(DataError, match=r"7\.png: must be the mask of one image, with its path; it is of none"):
        open_annotations(tmp_path, open_folder(tmp_path).test)
    (masks / "7.png").rename(masks / "1.png")
    Image.new("RGB", (40, 24)).save(tmp_path / "test/owl/1.jpg")
    with pytest.raises(DataError, match=r"it may be of test/owl/1\.jpg or test/owl/1\.png"):
        open_annotations(tmp_path, open_folder(tmp_path).test)


def test_images_that_the_data_leave_out_may_be_marked(tmp_path: Path) -> None:
    write_folder(tmp_path, boxes=HEAD + GOOD + "test/owl/broken.png,bird,1,1,8,8\n")
    (tmp_path / "test/owl/broken.png").write_bytes(b"")
    (tmp_path / "masks/test/owl").mkdir(parents=True)
    Image.new("L", (40, 24)).save(tmp_path / "masks/test/owl/broken.png")
    splits = open_splits(tmp_path, image_size=16, val_fraction=0.5, on_unreadable="skip")
    assert open_annotations(tmp_path, splits.test).found == ("boxes.csv", "masks/")
