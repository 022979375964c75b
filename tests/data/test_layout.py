"""Folders as people name and arrange them: all of it counts, or is told with a number, or is refused by its name."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protokern.data import Splits, open_splits
from protokern.errors import DataError


def paint(folder: Path, number: int, *, first: int = 0) -> Path:
    """Pictures that are all different."""
    folder.mkdir(parents=True, exist_ok=True)
    seed = sum(str(folder).encode())
    for i in range(first, first + number):
        pixels = np.random.default_rng([seed, i]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((16, 16)).save(folder / f"{i:02}.png")
    return folder


def make_data(
    root: Path, splits: tuple[str, ...] = ("train", "val", "test"), classes: tuple[str, ...] = ("gull", "owl")
):
    for split in splits:
        for name in classes:
            paint(root / split / name, 4)
    return root


def opened(root: Path, **options: Any) -> Splits:
    return open_splits(root, image_size=8, augmentation="none", **options)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev", "development", "Valid", "VALIDATION"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "TESTING")])
def test_a_split_is_known_by_any_of_its_names(tmp_path: Path, val: str, train: str, test: str) -> None:
    splits = opened(make_data(tmp_path, (train, val, test)))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 8, 8)
    assert splits.val.sample_name(0) == f"{val}/gull/00.png"
    named = f"8 validation ({val}/)" if val != "val" else "8 validation"
    assert named in splits.notes[0]
    assert not any("held out" in note for note in splits.notes)


@pytest.mark.parametrize("pair", [("val", "valid"), ("dev", "validation"), ("train", "Train"), ("test", "testing")])
def test_two_folders_of_one_meaning_are_refused_by_name(tmp_path: Path, pair: tuple[str, str]) -> None:
    make_data(tmp_path, tuple({"train", "test", *pair}))
    one, other = sorted(pair)
    with pytest.raises(DataError, match=rf"got {one}/ and {other}/ in .*, which mean the same"):
        opened(tmp_path)


@pytest.mark.parametrize(("name", "meant"), [("va1", "val"), ("VA1", "val"), ("eval", "val"), ("valdiation", "val")])
def test_a_folder_that_looks_like_a_missing_split_is_refused(tmp_path: Path, name: str, meant: str) -> None:
    make_data(tmp_path, ("train", name, "test"))
    with pytest.raises(DataError, match=rf"got '{name}' in .*, which looks like '{meant}', and no val/"):
        opened(tmp_path)


def test_other_folders_and_files_are_told_with_their_numbers(tmp_path: Path) -> None:
    make_data(tmp_path)
    paint(tmp_path / "unlabelled", 5)
    (tmp_path / "README.txt").write_text("x")
    (tmp_path / ".git/objects").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / ".git/objects" / name).write_text("x")
    for name in (".DS_Store", "gull/Thumbs.db", "owl/._00.png"):
        (tmp_path / "train" / name).write_bytes(b"x")
    account = opened(tmp_path).notes[0]
    assert account.startswith("data: 35 files: 8 training, 8 validation, 8 test; 11 not counted: ")
    assert "5 hidden (" in account
    assert "5 in folders that are not a split (unlabelled/)" in account
    assert "1 beside the folders (README.txt)" in account
    everything = sum(len(names) for _, _, names in os.walk(tmp_path))
    assert everything == 35


def link_to_another_class(root: Path) -> None:
    (root / "train/gull/more").symlink_to("../owl")


def link_to_an_image_of_another_class(root: Path) -> None:
    (root / "train/gull/9.png").symlink_to("../owl/00.png")


def class_that_is_a_link(root: Path) -> None:
    for split in ("train", "val", "test"):
        (root / split / "seagull").symlink_to("gull")


def one_folder_outside_for_two_classes(root: Path) -> None:
    paint(root.parent / "outside", 2)
    for name in ("gull", "owl"):
        (root / "train" / name / "more").symlink_to(root.parent / "outside")


def another_class_of_another_split(root: Path) -> None:
    (root / "test/gull/more").symlink_to("../../train/owl")


@pytest.mark.parametrize(
    "link",
    [
        link_to_another_class,
        link_to_an_image_of_another_class,
        class_that_is_a_link,
        one_folder_outside_for_two_classes,
        another_class_of_another_split,
    ],
)
def test_a_link_that_brings_in_another_class_is_refused(tmp_path: Path, link: Callable[[Path], None]) -> None:
    root = make_data(tmp_path / "data")
    link(root)
    with pytest.raises(DataError, match=r"must have each image in one class; .*, leads to .* Remove the link"):
        opened(root)


def test_links_are_followed_once_and_told(tmp_path: Path) -> None:
    root = make_data(tmp_path / "data")
    paint(tmp_path / "outside", 3)
    (root / "train/gull/more").symlink_to(tmp_path / "outside")
    (root / "train/gull/loop").symlink_to("..")
    (root / "train/owl/self").symlink_to(".")
    (root / "train/owl/again.png").symlink_to("00.png")
    (root / "test/owl/00.png").unlink()
    (root / "test/owl/00.png").symlink_to("../../train/owl/01.png")
    splits = opened(root)
    assert Counter(splits.train.labels) == {0: 7, 1: 4}
    account, *notes = splits.notes
    assert "2 by a link to a folder that is read already (gull/loop, owl/self)" in account
    assert "1 by a link to an image that counts already (train/owl/again.png)" in account
    assert any(
        note.startswith("3 images by links that lead out of the data folder: train/gull/more/") for note in notes
    )
    assert "1 image in two splits, by links: test/owl/00.png" in notes


def test_a_data_folder_that_is_a_link_is_one(tmp_path: Path) -> None:
    make_data(tmp_path / "real")
    (tmp_path / "data").symlink_to("real")
    assert opened(tmp_path / "data").notes == ("data: 24 files: 8 training, 8 validation, 8 test",)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("Bird", "bird", "'Bird' and 'bird' differ in case"),
        ("bird", "bird ", "'bird' and 'bird ' differ in spaces"),
        ("café", "Cafe\u0301", r"'caf\xe9' and 'Cafe\u0301' differ in case"),
        ("bi\u200brd", "bird", r"'bi\u200brd' and 'bird' differ in characters that cannot be seen"),
        ("bi1l", "bill", "'bi1l' and 'bill' differ in characters that look alike"),
        ("sparrow", "sparow", "'sparrow' and 'sparow' differ in one character"),
    ],
)
def test_names_that_look_alike_are_shown_so_that_they_differ(tmp_path: Path, one: str, other: str, said: str) -> None:
    make_data(tmp_path, ("train",), ("owl", one))
    make_data(tmp_path, ("test",), ("owl", other))
    with pytest.raises(DataError) as error:
        opened(tmp_path)
    assert said.replace("'caf\\xe9'", "'café'") in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_that_may_be_one_are_told(tmp_path: Path) -> None:
    notes = opened(make_data(tmp_path, classes=("Bird", "bird", "owl"))).notes
    assert any(note.startswith("class names that look alike: 'Bird' and 'bird' differ in case;") for note in notes)
    assert not any("look alike" in note for note in opened(make_data(tmp_path / "b", classes=("owl", "gull"))).notes)


def table_and_images(root: Path) -> None:
    paint(root / "images", 4)
    (root / "labels.csv").write_text("file,labels\n00.png,a|b\n")


def table_in_the_splits(root: Path) -> None:
    for split in ("train", "test"):
        paint(root / split, 4)
        (root / split / "_annotations.coco.json").write_text("{}")


def table_without_folders(root: Path) -> None:
    paint(root, 4)
    (root / "labels.json").write_text("{}")


def table_beside_the_splits(root: Path) -> None:
    for split in ("train", "test"):
        paint(root / split, 4)
    (root / "train.csv").write_text("image,labels\n00,1 2\n")


def masks(root: Path) -> None:
    for name in ("images", "masks"):
        paint(root / name, 4)


def detection(root: Path) -> None:
    for split in ("train", "test"):
        paint(root / split / "images", 4)
        (root / split / "labels").mkdir()
        (root / split / "labels/00.txt").write_text("0 0.5 0.5 1 1")


@pytest.mark.parametrize(
    "make", [table_and_images, table_in_the_splits, table_without_folders, table_beside_the_splits, masks, detection]
)
def test_several_labels_of_an_image_are_refused_by_name(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=r"\(multi-label\)"):
        opened(tmp_path)


def test_a_folder_around_the_data_is_told_from_it(tmp_path: Path) -> None:
    make_data(tmp_path / "photos")
    with pytest.raises(DataError, match=re.escape(f"Give {tmp_path / 'photos'}.")):
        opened(tmp_path)
    make_data(tmp_path / "others")
    with pytest.raises(DataError, match=re.escape("in which others/ holds test, train, val. Give")):
        opened(tmp_path)


def test_an_archive_as_data_is_told_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK\3\4" + bytes(30))
    with pytest.raises(DataError, match=r"got the file .*photos.zip \(ZIP, an archive; unpack it\)"):
        opened(tmp_path / "photos.zip")


def test_animations_and_pages_are_told(tmp_path: Path) -> None:
    make_data(tmp_path)
    frames = [Image.new("RGB", (8, 8), (i * 80, 0, 0)) for i in range(3)]
    for suffix in ("gif", "webp", "png", "tif"):
        frames[0].save(tmp_path / f"train/owl/many.{suffix}", save_all=True, append_images=frames[1:])
    notes = opened(tmp_path).notes
    assert any(
        note.startswith("4 files with several pictures (animations, pages), of which the first") for note in notes
    )
