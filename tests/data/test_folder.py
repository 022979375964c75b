"""A data folder is opened as described, or refused with one line that says what to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.data import Splits, open_splits
from protokern.data.folder import hold_out
from protokern.errors import DataError


def make_images(folder: Path, number: int, colour: tuple[int, int, int] = (200, 40, 40)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        Image.new("RGB", (12, 10), (colour[0], colour[1], i)).save(folder / f"{i:02}.png")


def make_data(root: Path, splits: tuple[str, ...] = ("train", "val", "test"), number: int = 4) -> Path:
    for split in splits:
        for name in ("finch", "gull", "owl"):
            make_images(root / split / name, number)
    return root


def opened(root: Path, on_unreadable: str = "stop", val_fraction: float = 0.1, seed: int = 0) -> Splits:
    return open_splits(
        root, image_size=8, augmentation="none", on_unreadable=on_unreadable, val_fraction=val_fraction, seed=seed
    )


def test_folder_becomes_four_data_sets(tmp_path: Path) -> None:
    splits = opened(make_data(tmp_path))
    assert splits.classes == ["finch", "gull", "owl"]
    assert [len(data) for data in (splits.train, splits.push, splits.val, splits.test)] == [12] * 4
    assert splits.train.labels == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.train.sample_name(4) == "train/gull/00.png"
    assert splits.test.source_path(0) == tmp_path / "test/finch/00.png"
    assert splits.notes == ("data: 36 files: 12 training, 12 validation, 12 test",)
    image, label = splits.val[5]
    assert (image.shape, label) == ((3, 8, 8), 1)


def test_push_holds_the_training_images_in_order_without_augmentation(tmp_path: Path) -> None:
    splits = open_splits(make_data(tmp_path), image_size=(8, 6), augmentation="protopnet")
    names = [[data.sample_name(i) for i in range(12)] for data in (splits.train, splits.push)]
    assert names[0] == names[1]
    assert splits.train.augmentation is not None
    assert splits.push.augmentation is None
    assert splits.val.augmentation is None
    assert splits.test.augmentation is None
    assert splits.train[0][0].shape == (3, 8, 6)


def test_without_val_a_stratified_share_is_held_out_and_noted(tmp_path: Path) -> None:
    root = make_data(tmp_path, ("train", "test"), number=10)
    splits = opened(root, val_fraction=0.2, seed=5)
    assert Counter(splits.val.labels) == {0: 2, 1: 2, 2: 2}
    assert Counter(splits.train.labels) == {0: 8, 1: 8, 2: 8}
    assert splits.notes == (
        "data: 60 files: 24 training, 6 validation, 30 test",
        "no folder val/: held out 6 of 30 training images for validation (20% of each class, seed 5)",
    )
    held, kept = ({data.sample_name(i) for i in range(len(data))} for data in (splits.val, splits.train))
    assert not held & kept
    again, other = opened(root, val_fraction=0.2, seed=5), opened(root, val_fraction=0.2, seed=6)
    assert held == {again.val.sample_name(i) for i in range(6)}
    assert held != {other.val.sample_name(i) for i in range(6)}


def test_the_share_that_is_told_is_the_one_that_was_held_out(tmp_path: Path) -> None:
    root = make_data(tmp_path, ("train", "test"), number=3)
    make_images(root / "train/owl", 8, (1, 1, 1))
    assert opened(root).notes[1] == (
        "no folder val/: held out 3 of 14 training images for validation "
        "(12% to 33% of a class, as near to 10% as whole images come, seed 0)"
    )


def test_holding_out_looks_at_every_image_a_few_times_however_many_classes_there_are() -> None:
    class Counted(list):
        passes = 0

        def __iter__(self) -> Iterator:
            self.passes += 1
            return super().__iter__()

    samples = Counted((Path(str(i)), i % 50) for i in range(150))
    train, val, _ = hold_out(samples, [str(label) for label in range(50)], 0.3, seed=1)
    assert (len(train), len(val)) == (100, 50)
    assert samples.passes <= 4


def test_holding_out_leaves_an_image_in_each_class(tmp_path: Path) -> None:
    splits = opened(make_data(tmp_path, ("train", "test"), number=2), val_fraction=0.9)
    assert Counter(splits.train.labels) == {0: 1, 1: 1, 2: 1}


def test_hidden_names_are_passed_over_and_subfolders_belong_to_the_class(tmp_path: Path) -> None:
    root = make_data(tmp_path)
    for name in (".DS_Store", "gull/.hidden.png", "gull/Thumbs.db", "gull/desktop.ini"):
        (root / "train" / name).write_bytes(b"x")
    (root / "train/.ipynb_checkpoints").mkdir()
    make_images(root / "train/gull/more", 2)
    assert Counter(opened(root).train.labels) == {0: 4, 1: 6, 2: 4}


def spoil(root: Path) -> list[Path]:
    bad = [root / "train/finch/notes.txt", root / "train/gull/01.png", root / "test/owl/02.png"]
    bad[0].write_text("a list")
    bad[1].write_bytes(b"")
    bad[2].write_bytes(bad[2].read_bytes()[:50])
    return bad


def test_unreadable_files_of_all_splits_are_listed_before_training(tmp_path: Path) -> None:
    bad = spoil(make_data(tmp_path))
    with pytest.raises(DataError) as caught:
        opened(tmp_path)
    message = str(caught.value)
    assert message.startswith("data: must hold only images that can be read; got 3 unreadable files: ")
    assert f"{bad[0]} (not an image: text), {bad[1]} (empty file, 0 bytes), {bad[2]} (" in message
    assert 'on_unreadable = "skip"' in message
    assert "\n" not in message


def test_only_the_first_ten_unreadable_files_are_listed(tmp_path: Path) -> None:
    make_data(tmp_path)
    for i in range(13):
        (tmp_path / f"train/owl/bad{i:02}.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"got 13 unreadable files: .*bad09.jpg \(not an image: text\) and 3 more\."):
        opened(tmp_path)


def test_processes_share_the_check_of_the_files(tmp_path: Path) -> None:
    bad = spoil(make_data(tmp_path))
    said = ""
    for part in range(3):
        with pytest.raises(DataError) as error:
            open_splits(tmp_path, image_size=8, checked_part=(part, 3))
        said += str(error.value)
    assert all(said.count(f"{path} (") == 1 for path in bad)
    skipped = [open_splits(tmp_path, image_size=8, on_unreadable="skip", checked_part=(part, 3)) for part in range(3)]
    assert len({splits.notes for splits in skipped}) == 1  # every process knows all that is left out


def test_unreadable_files_can_be_skipped(tmp_path: Path) -> None:
    bad = spoil(make_data(tmp_path))
    splits = opened(tmp_path, on_unreadable="skip")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [11, 12, 11]
    account, note = splits.notes
    assert account == (
        "data: 37 files: 11 training, 12 validation, 11 test; 3 not counted: 3 unreadable (notes.txt, 01.png, 02.png)"
    )
    assert note.startswith("skipped 3 unreadable files: ")
    assert all(str(path) in note for path in bad)


def test_class_with_nothing_left_after_skipping_is_an_error(tmp_path: Path) -> None:
    make_data(tmp_path)
    for path in (tmp_path / "val/owl").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"at least one image in each class folder of .*val; got none in owl"):
        opened(tmp_path, on_unreadable="skip")


def remove(path: Path) -> None:
    for inside in sorted(path.rglob("*"), reverse=True):
        inside.rmdir() if inside.is_dir() else inside.unlink()
    path.rmdir()


def without_owl(root: Path) -> None:
    remove(root / "test/owl")


def with_heron(root: Path) -> None:
    make_images(root / "val/heron", 1)


def renamed(root: Path) -> None:
    (root / "test/owl").rename(root / "test/Owl")


def empty_class(root: Path) -> None:
    (root / "train/wren").mkdir()


def one_class(root: Path) -> None:
    remove(root / "train/gull")
    remove(root / "train/owl")


def empty_split(root: Path) -> None:
    remove(root / "val")
    (root / "val").mkdir()


def stray_files(root: Path) -> None:
    make_images(root / "train", 1)


def no_test(root: Path) -> None:
    remove(root / "test")


def empty_root(root: Path) -> None:
    for split in ("train", "val", "test"):
        remove(root / split)


def single_image_without_val(root: Path) -> None:
    remove(root / "val")
    make_images(root / "train/wren", 1)
    make_images(root / "test/wren", 1)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without_owl, "must have the classes of train in {root}/test; got no folder for owl."),
        (with_heron, "must have the classes of train in {root}/val; got heron, unknown to train."),
        (renamed, "must have the classes of train in {root}/test; got no folder for owl and Owl, unknown to train."),
        (empty_class, "must hold at least one image in each class folder of {root}/train; got none in wren."),
        (one_class, "must hold at least two class folders in {root}/train; got one class, finch."),
        (empty_split, "must hold at least two class folders in {root}/val; got none."),
        (stray_files, "must hold only class folders in {root}/train; got 1 file there: 00.png."),
        (no_test, "got the folders train, val in {root}, without test/. Sort the images into these folders."),
        (empty_root, "got no folder in {root}, without train/ and test/."),
        (
            single_image_without_val,
            "at least two training images of each class to hold one out for validation; got 1 of wren.",
        ),
    ],
)
def test_unusable_folder_gets_one_clear_line(tmp_path: Path, break_it: Callable[[Path], None], message: str) -> None:
    break_it(make_data(tmp_path))
    with pytest.raises(DataError, match=re.escape(message.format(root=tmp_path))) as caught:
        opened(tmp_path)
    assert str(caught.value).startswith("data: must ")
    assert "\n" not in str(caught.value)


def test_missing_path_and_file_as_folder(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data: must be a folder; got .*nowhere, which does not exist\. Check the path"
    ):
        opened(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"data: must be a folder; got the file .*file\."):
        opened(tmp_path / "file")


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 2])
def test_val_fraction_out_of_range(tmp_path: Path, val_fraction: float) -> None:
    with pytest.raises(ValueError, match="val_fraction: must be between 0 and 1; got"):
        opened(tmp_path, val_fraction=val_fraction)


def test_unknown_on_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_unreadable: must be one of stop, skip; got 'ignore'"):
        opened(tmp_path, on_unreadable="ignore")


def test_photograph_that_vanishes_after_the_check_is_named(tmp_path: Path) -> None:
    splits = opened(make_data(tmp_path))
    (tmp_path / "train/finch/00.png").unlink()
    with pytest.raises(DataError, match=r"got .*finch/00.png \(no such file\)"):
        splits.train[0]


def test_display_image_is_what_the_network_sees(tmp_path: Path) -> None:
    splits = open_splits(make_data(tmp_path), image_size=8, augmentation="crop", cache="memory")
    for data in (splits.train, splits.push):
        np.testing.assert_array_equal(
            data.display_image(3), (splits.push[3][0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        )
