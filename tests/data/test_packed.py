"""Images in tar files and in data sets of the package `datasets`, read at any place."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from protokern.cli.main import main
from protokern.config import RunConfig
from protokern.config.run import with_data
from protokern.data import open_splits
from protokern.data.places import absolute_source
from protokern.errors import DataError, MissingPackageError
from tests.data.packed_data import CLASSES, FakeRows, add, png, write_shards


def test_shards_are_data_sets_that_can_be_read_at_any_place(tmp_path) -> None:
    folder = write_shards(tmp_path / "shards", train=8, val=4, test=4)
    (folder / "classes.txt").write_text("cat\ndog\n")
    splits = open_splits(f"webdataset:{folder}", image_size=16, augmentation="none")
    assert splits.classes == list(CLASSES)
    assert (len(splits.train), len(splits.push), len(splits.val), len(splits.test)) == (8, 8, 4, 4)
    names = [splits.train.sample_name(index) for index in range(8)]
    assert names[0] == "train-000000.tar/some/train_0.png"
    assert len(set(names)) == 8
    assert splits.train.source_path(7) == folder / "train-000001.tar"
    loose = tmp_path / "3.png"
    loose.write_bytes(png(3))
    index = names.index("train-000001.tar/some/train_3.png")
    expected = open_one(loose)
    image, label = splits.push[index]
    assert torch.equal(image, expected)
    assert label == 1
    assert splits.notes == (
        f"data: 32 files in webdataset:{folder}, besides labels: 8 training, 4 validation, 4 test; "
        "16 not counted: 16 other members of samples (.json); read when needed",
    )


def open_one(path: Path) -> torch.Tensor:
    from protokern.data import load_image

    return load_image(path, 16)


def test_without_validation_shards_some_training_images_are_held_out(tmp_path) -> None:
    folder = write_shards(tmp_path, train=12, test=4)
    splits = open_splits(f"webdataset:{folder}", image_size=16, val_fraction=0.34)
    assert splits.classes == ["0", "1"]
    assert (len(splits.train), len(splits.val)) == (8, 4)
    held = {splits.val.sample_name(index) for index in range(4)}
    assert not held & {splits.train.sample_name(index) for index in range(8)}
    assert splits.notes[1].startswith("held out 4 of 12 training images")


def test_a_training_runs_on_shards(tmp_path, capsys) -> None:
    folder = write_shards(tmp_path / "shards", train=8, val=4, test=4)
    settings = {
        "model.backbone": "tiny",
        "model.prototypes_per_class": 1,
        "model.prototype_dim": 4,
        "data.image_size": 32,
        "train.warm_epochs": 0,
        "train.joint_epochs": 1,
        "train.last_layer_epochs": 1,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    assert (
        main(["train", "--recipe", "paper", "--data", f"webdataset:{folder}", "--out", str(tmp_path / "run"), *sets])
        == 0
    )
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert '"images": 4' in capsys.readouterr().out


def broken_shards(folder: Path, kind: str) -> str:
    """Shards with a mistake, and what is said about it."""
    write_shards(folder, train=8, test=4)
    target = folder / "train-000002.tar"
    if kind == "compressed":
        with tarfile.open(target, "w:gz") as archive:
            add(archive, "a.png", png(0))
        return "must hold whole, uncompressed tar files; .*train-000002.tar cannot be read"
    with tarfile.open(target, "w") as archive:
        if kind == "no label":
            add(archive, "a.png", png(0))
        else:
            add(archive, "a.png", png(0))
            add(archive, "a.cls", {"text": b"cat", "negative": b"-1", "long": b"1" * 100}[kind])
    return {
        "no label": "must have an image and a .cls of every sample; .*train-000002.tar has a with one",
        "text": "must hold class indices as whole numbers; a.cls in .*train-000002.tar",
        "long": "must hold class indices as whole numbers; a.cls in",
        "negative": r"must have class indices of 0 .. 1; .* has another one at train-000002.tar/a.png",
    }[kind]


@pytest.mark.parametrize("kind", ["compressed", "no label", "text", "long", "negative"])
def test_shards_that_cannot_be_used_are_named(tmp_path, kind) -> None:
    message = broken_shards(tmp_path, kind)
    with pytest.raises(DataError, match=message):
        open_splits(f"webdataset:{tmp_path}", image_size=16)


def test_what_is_missing_of_shards_is_said(tmp_path) -> None:
    with pytest.raises(DataError, match=r"must be a folder of tar files; got .*none, which does not exist. Write"):
        open_splits(f"webdataset:{tmp_path / 'none'}", image_size=16)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"must be a folder of tar files; got .*file, which is a file. Write"):
        open_splits(f"webdataset:{tmp_path / 'file'}", image_size=16)
    write_shards(tmp_path, train=4)
    message = r"must have images in train and test; .* has none in test. Name tar files train-\*.tar and test-\*.tar."
    with pytest.raises(DataError, match=message):
        open_splits(f"webdataset:{tmp_path}", image_size=16)
    write_shards(tmp_path, train=4, test=4)
    with pytest.raises(DataError, match=r'data.on_unreadable: must be "stop" with webdataset'):
        open_splits(f"webdataset:{tmp_path}", image_size=16, on_unreadable="skip")
    (tmp_path / "classes.txt").write_text("cat\ndog\ncow\n")
    with pytest.raises(DataError, match="lacks cow"):
        open_splits(f"webdataset:{tmp_path}", image_size=16)


def test_a_damaged_image_in_a_shard_is_named(tmp_path) -> None:
    write_shards(tmp_path, train=4, val=4, test=4)
    with tarfile.open(tmp_path / "train-000002.tar", "w") as archive:
        add(archive, "bad.png", png(0)[:100])
        add(archive, "bad.cls", b"0")
    train = open_splits(f"webdataset:{tmp_path}", image_size=16).push
    with pytest.raises(DataError, match=r"train-000002.tar/bad.png"):
        train[len(train) - 1]


def test_an_image_of_too_many_bytes_or_pixels_is_refused(tmp_path) -> None:
    write_shards(tmp_path, train=4, val=4, test=4)
    with tarfile.open(tmp_path / "train-000002.tar", "w") as archive:
        add(archive, "large.png", png(0) + bytes(2**24))
        add(archive, "large.cls", b"0")
    train = open_splits(f"webdataset:{tmp_path}", image_size=16, max_image_pixels=100).push
    with pytest.raises(DataError, match=r"images of at most 16778016 bytes; train-000002.tar/large.png has"):
        train[len(train) - 1]
    with pytest.raises(DataError, match=r"train_0.png \(24 x 20 pixels are more than the limit"):
        train[0]


def test_a_data_set_by_name(fake_datasets, tmp_path) -> None:
    loaded = {
        "train": FakeRows(fake_datasets, [0, 1, 0, 1]),
        "validation": FakeRows(fake_datasets, [1, 0]),
        "test": FakeRows(fake_datasets, [-1, -1]),  # without labels, as ImageNet's
    }
    asked = []

    def load(name):
        asked.append(name)
        return loaded

    fake_datasets.load_dataset = load
    splits = open_splits("huggingface:some/name", image_size=16, augmentation="none")
    assert asked == ["some/name"]
    assert splits.classes == list(CLASSES)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (2, 2, 2)
    assert [splits.test[index][1] for index in range(2)] == [1, 0]
    path = tmp_path / "0.png"
    path.write_bytes(png(0))
    assert torch.equal(splits.test[0][0], open_one(path))
    assert splits.test.source_path(0) is None

    fake_datasets.load_from_disk = lambda name: {**load(name), "test": FakeRows(fake_datasets, [1])}
    splits = open_splits(f"huggingface:{tmp_path}", image_size=16)
    assert asked[-1] == str(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (4, 2, 1)


def test_what_is_wrong_with_a_data_set_by_name_is_one_line(fake_datasets, monkeypatch) -> None:
    def missing(name: str):
        raise ValueError("no such data set\nand more")

    fake_datasets.load_dataset = missing
    with pytest.raises(DataError, match=r"huggingface:some/name is not available \(no such data set\)\. Check the"):
        open_splits("huggingface:some/name", image_size=16)
    rows = FakeRows(fake_datasets, [0, 1])
    rows.features["other"] = fake_datasets.Image()
    fake_datasets.load_dataset = lambda name: {"train": rows}
    with pytest.raises(DataError, match=r"one column of images and one of class labels; .* has image, other and label"):
        open_splits("huggingface:some/name", image_size=16)
    fake_datasets.__version__ = "3.6.0"
    with pytest.raises(MissingPackageError, match=r"needs datasets 4 or newer, which runs no code .*; got 3.6.0"):
        open_splits("huggingface:some/name", image_size=16)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'protokern\[huggingface\]'"):
        open_splits("huggingface:some/name", image_size=16)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "row 0 must hold an image or the path of one"),
        ({"bytes": None, "path": None}, "row 0 must hold an image or the path of one"),
        ({"bytes": None, "path": "/dev/zero"}, "row 0 must hold an image or the path of one"),
        ({"bytes": None, "path": "large"}, "images of at most 16778016 bytes; row 0 has 20000000"),
    ],
)
def test_a_row_is_read_from_a_plain_file_of_a_limited_size(fake_datasets, tmp_path, monkeypatch, cell, message) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("large").open("wb") as file:
        file.truncate(20_000_000)
    rows = FakeRows(fake_datasets, [0, 1, 0, 1])
    monkeypatch.setattr(FakeRows, "__getitem__", lambda rows, key: rows.labels if key == "label" else {"image": cell})
    fake_datasets.load_dataset = lambda name: {"train": rows, "test": rows}
    train = open_splits("huggingface:some/name", image_size=16, val_fraction=0.5, max_image_pixels=100).test
    with pytest.raises(DataError, match=message):
        train[0]


def test_a_row_may_name_its_file(fake_datasets, tmp_path, monkeypatch) -> None:
    path = tmp_path / "0.png"
    path.write_bytes(png(0))
    rows = FakeRows(fake_datasets, [0, 1, 0, 1])
    cell = {"bytes": None, "path": str(path)}
    monkeypatch.setattr(FakeRows, "__getitem__", lambda rows, key: rows.labels if key == "label" else {"image": cell})
    fake_datasets.load_dataset = lambda name: {"train": rows, "test": rows}
    test = open_splits("huggingface:some/name", image_size=16, val_fraction=0.5).test
    assert torch.equal(test[0][0], open_one(path))


def test_rows_of_another_data_set_are_other_pixels(fake_datasets) -> None:
    """Rows have numbers for names: features that are stored of one data set must not be taken for another's."""
    said = []
    for fingerprint in ("a1", "b2"):
        rows = FakeRows(fake_datasets, [0, 1, 0, 1], fingerprint=fingerprint)
        fake_datasets.load_dataset = lambda name, rows=rows: {"train": rows, "test": rows}
        splits = open_splits("huggingface:some/name", image_size=16, val_fraction=0.5)
        said.append([one.transform() for one in (splits.push, splits.val, splits.test)])
    assert said[0][0].startswith("16 x 16 pixels")
    assert "rows of a1" in said[0][0]
    assert all(one != other for one, other in zip(*said, strict=True))


def test_one_split_alone_and_labels_that_are_missing_are_one_line(fake_datasets, tmp_path) -> None:
    rows = FakeRows(fake_datasets, [0, 1])
    fake_datasets.load_from_disk = lambda name: rows
    with pytest.raises(DataError, match=r"must have splits, as a DatasetDict does; .* is one FakeRows"):
        open_splits(f"huggingface:{tmp_path}", image_size=16)
    others = FakeRows(fake_datasets, [0, 1])
    others.features["label"].names = CLASSES[::-1]
    fake_datasets.load_from_disk = lambda name: {"train": rows, "test": others}
    with pytest.raises(DataError, match=r"the same class labels, in one order, in all splits; .* has others in test"):
        open_splits(f"huggingface:{tmp_path}", image_size=16)
    rows = FakeRows(fake_datasets, [0, None])
    fake_datasets.load_from_disk = lambda name: {"train": rows, "test": rows}
    with pytest.raises(DataError, match=r"must have a class label in every row; huggingface:.* has none in row 1"):
        open_splits(f"huggingface:{tmp_path}", image_size=16)
    nothing: dict[str, object] = {}
    fake_datasets.load_from_disk = lambda name: nothing["_split"]
    with pytest.raises(DataError, match="is not available"):
        open_splits(f"huggingface:{tmp_path}", image_size=16)


@pytest.mark.parametrize(
    ("content", "message"), [(b"cat\ndog\xff\n", "must be UTF-8 text"), (b"cat\n" * 5_000_000, "at most 16777216")]
)
def test_names_of_classes_are_text_of_a_limited_size(tmp_path, content, message) -> None:
    write_shards(tmp_path, train=4, test=4)
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"classes.txt.* {message}"):
        open_splits(f"webdataset:{tmp_path}", image_size=16)


def header(name: str, kind: bytes, size: int) -> bytes:
    """Of a member that claims any size, also a negative one."""
    codec: Any = tarfile  # of functions that are not documented
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = codec.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % codec.calc_chksums(bytes(block))[0]
    return bytes(block)


def sparse(headers: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.png")
        member.pax_headers = headers
        archive.addfile(member)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        header("a.txt", tarfile.REGTYPE, 0) + header("a.png", tarfile.REGTYPE, -1024) + bytes(1024),
        header("long", tarfile.GNUTYPE_LONGNAME, 2**40) + bytes(1024),
        header("long", tarfile.XHDTYPE, -1024) + bytes(1024),
        sparse({"GNU.sparse.map": "x,y"}),
        sparse({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
        header("a.png", tarfile.REGTYPE, 5000) + bytes(512),
    ],
    ids=["negative", "long name", "negative header", "sparse", "sparse 1.0", "cut off"],
)
def test_headers_that_lie_are_refused(tmp_path, content) -> None:
    write_shards(tmp_path, train=4, test=4)
    (tmp_path / "train-000002.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"must hold whole, uncompressed tar files; .*train-000002.tar cannot be read"):
        open_splits(f"webdataset:{tmp_path}", image_size=16)


def test_a_shard_that_is_no_plain_file_is_not_waited_for(tmp_path) -> None:
    write_shards(tmp_path, train=4, test=4)
    os.mkfifo(tmp_path / "train-000002.tar")
    with pytest.raises(DataError, match=r"train-000002.tar is not a plain file"):
        open_splits(f"webdataset:{tmp_path}", image_size=16)


def test_two_images_of_one_sample_are_refused(tmp_path) -> None:
    write_shards(tmp_path, train=4, test=4)
    with tarfile.open(tmp_path / "train-000002.tar", "w") as archive:
        for name in ("a.png", "a.jpg"):
            add(archive, name, png(0))
        add(archive, "a.cls", b"0")
    with pytest.raises(DataError, match=r"must have one image of every sample; .*train-000002.tar has two of a\."):
        open_splits(f"webdataset:{tmp_path}", image_size=16)


def test_sources_hold_in_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    assert absolute_source("photos") == str(tmp_path / "photos")
    assert absolute_source("synthetic-birds") == ""
    assert absolute_source("webdataset:shards") == f"webdataset:{tmp_path / 'shards'}"
    assert absolute_source("huggingface:saved") == f"huggingface:{tmp_path / 'saved'}"
    assert absolute_source("huggingface:zh-plus/tiny-imagenet") == "huggingface:zh-plus/tiny-imagenet"
    assert with_data(RunConfig(), "webdataset:shards").data.path == f"webdataset:{tmp_path / 'shards'}"
