"""Names of classes and files are bytes: they need not be UTF-8, and an accent has two forms."""

from __future__ import annotations

import io
import os
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.data import open_splits
from protokern.errors import DataError
from protokern.features import fingerprint_of_files


def nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)


def make_split(root: Path, split: str, classes: dict[str, int]) -> None:
    """Four images of one grey for each class, by the folder's name."""
    for name, grey in classes.items():
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), grey + number).save(folder / f"{number}.png")


def test_a_class_keeps_its_images_whatever_form_its_accents_have(tmp_path: Path) -> None:
    # In the decomposed form the first class comes before the second, in the composed form after it.
    make_split(tmp_path, "train", {nfd("\u00e9toile"): 0, "feu": 100, "mer": 200})
    make_split(tmp_path, "val", {nfd("\u00e9toile"): 0, "feu": 100, "mer": 200})
    make_split(tmp_path, "test", {"\u00e9toile": 0, "feu": 100, "mer": 200})
    splits = open_splits(tmp_path, image_size=8)
    assert splits.classes == [nfd("\u00e9toile"), "feu", "mer"]
    for data in (splits.push, splits.val, splits.test):
        for index, label in enumerate(data.labels):
            grey = float(data[index][0].mean()) * 255
            assert grey == pytest.approx(100 * label + index % 4, abs=0.1)


def test_two_classes_that_look_the_same_are_named(tmp_path: Path) -> None:
    make_split(tmp_path, "train", {"\u00e9toile": 0, nfd("\u00e9toile"): 100})
    make_split(tmp_path, "test", {"\u00e9toile": 0, nfd("\u00e9toile"): 100})
    with pytest.raises(DataError, match=r"got 'e\\u0301toile' and '\\xe9toile', which look the same: only the form"):
        open_splits(tmp_path, image_size=8)


def test_names_that_are_no_text_are_as_good_as_others(tmp_path: Path) -> None:
    classes = {os.fsdecode(b"\xe9t\xe9"): 0, os.fsdecode(b"hiver\xff"): 100}
    for split in ("train", "val", "test"):
        make_split(tmp_path, split, classes)
    (tmp_path / "test" / "hiver\udcff" / "0.png").rename(tmp_path / "test" / "hiver\udcff" / "\udce9.png")
    splits = open_splits(tmp_path, image_size=8)
    assert splits.classes == sorted(classes)
    assert "test/hiver\udcff/\udce9.png" in [splits.test.sample_name(index) for index in range(8)]


def test_a_fingerprint_takes_any_name_and_keeps_that_of_text() -> None:
    of_text = fingerprint_of_files([("\u00e9t\u00e9.png", 0, None)])
    assert of_text == "923886f4e2aafabbc4eab11141ac1c65"
    assert fingerprint_of_files([("\udce9t\udce9.png", 0, None)]) not in (of_text, fingerprint_of_files([]))


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def picture(grey: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), grey, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", ["{}.PNG {}.CLS TAR", "{}.Png {}.cls tar", "\udce9{}.png \udce9{}.Cls Tar"])
def test_shards_from_systems_that_write_capitals(tmp_path: Path, name: str) -> None:
    image, label, suffix = name.split()
    for split in ("train", "val", "test"):
        members = {}
        for number in range(4):
            members[image.format(number)] = picture(50 * number)
            members[label.format(number)] = str(number % 2).encode()
        write_shard(tmp_path / f"{split}-0.{suffix}", members)
    splits = open_splits(f"webdataset:{tmp_path}", image_size=8)
    for data in (splits.push, splits.val, splits.test):
        assert len(data) == 4
        assert data.labels == [0, 1, 0, 1]
        assert float(data[3][0].mean()) * 255 == pytest.approx(150, abs=0.1)


def test_a_sample_with_two_classes_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", {"a.png": picture(0), "a.cls": b"0", "a.CLS": b"1"})
    with pytest.raises(DataError, match=r"must have one class index of every sample; .*train-0\.tar has two of a"):
        open_splits(f"webdataset:{tmp_path}", image_size=8)
