"""Names, labels and grey values of packed images: what counts, what is told, what is refused."""

from __future__ import annotations

import io
import types

import numpy as np
import pytest
from PIL import Image

from protokern.data import open_splits
from protokern.errors import DataError
from tests.data.packed_data import FakeRows, png, write_shard, write_shards


@pytest.mark.parametrize(
    ("members", "images"),
    [
        (["a.v1.png", "a.v1.cls", "b.png", "b.cls"], ["a.v1.png", "b.png"]),
        (["a.1.png", "a.1.cls", "a.2.png", "a.2.cls"], ["a.1.png", "a.2.png"]),
        (["a.2024.05.JPG", "a.2024.05.cls"], ["a.2024.05.JPG"]),
        (["a.cls", "a.png", "a.seg.png"], ["a.png"]),
        (["a.b/c.png", "a.b/c.cls"], ["a.b/c.png"]),
        (["a.v1.png", "a.cls"], ["a.v1.png"]),
    ],
)
def test_names_with_more_dots_than_one_are_samples(tmp_path, members, images) -> None:
    write_shards(tmp_path, train=4, val=4, test=4)
    write_shard(
        tmp_path / "train-000009.tar",
        {name: b"1" if name.endswith("cls") else png(i) for i, name in enumerate(members)},
    )
    splits = open_splits(f"webdataset:{tmp_path}", image_size=16)
    found = [splits.push.sample_name(i) for i in range(len(splits.push))]
    assert [name for name in found if "000009" in name] == [f"train-000009.tar/{name}" for name in images]
    left = len(members) - 2 * len(images)
    assert (f"{left} images without a label beside one with it (a.seg.png)" in splits.notes[0]) == (left > 0)


def test_members_that_are_no_samples_are_told(tmp_path) -> None:
    write_shards(tmp_path, train=4, val=4, test=4)
    write_shard(
        tmp_path / "train-000009.tar",
        {"a.png": png(0), "a.cls": b"1", "._a.png": b"x", "__MACOSX/._a.cls": b"x", "a.txt": b"a gull"},
    )
    (tmp_path / "notes.md").write_text("x")
    write_shard(tmp_path / "extra-000000.tar", {"b.png": png(0), "b.cls": b"1"})
    account = open_splits(f"webdataset:{tmp_path}", image_size=16).notes[0]
    assert "2 hidden (._a.png, __MACOSX/._a.cls)" in account
    assert "13 other members of samples (.json, .txt)" in account
    assert "2 beside the tar files of splits (extra-000000.tar, notes.md)" in account


@pytest.mark.parametrize("val", ["val", "valid", "Validation", "dev"])
@pytest.mark.parametrize("pattern", ["{}-{:06}.tar", "{}_{}.TAR", "birds-{}-{:03}.tar"])
def test_shards_of_a_split_are_known_by_any_of_its_names(tmp_path, val, pattern) -> None:
    for split in ("training", val, "test"):
        for shard in range(2):
            members = {
                f"{i}.{kind}": png(i) if kind == "png" else b"%d" % i for i in range(2) for kind in ("png", "cls")
            }
            write_shard(tmp_path / pattern.format(split, shard), members)
    splits = open_splits(f"webdataset:{tmp_path}", image_size=16)
    assert [len(one) for one in (splits.train, splits.val, splits.test)] == [4, 4, 4]


def test_shards_of_two_names_for_one_split_are_refused(tmp_path) -> None:
    write_shards(tmp_path, train=4, val=4, valid=4, test=4)
    with pytest.raises(DataError, match=r"got val-\*.tar and valid-\*.tar in .*, which mean the same"):
        open_splits(f"webdataset:{tmp_path}", image_size=16)


@pytest.mark.parametrize(
    "members",
    [
        {"a.cls": b"1,3"},
        {"a.cls": b"[0, 2]"},
        {"a.cls": b"1 0 1 1 0 0 1 0 1 0 0 0 0 1 1 1 1 0 0 0 1"},
        {"a.json": b'{"labels": [1, 3]}'},
        {"a.coarse.cls": b"1", "a.fine.cls": b"3"},
    ],
)
def test_several_labels_of_an_image_are_refused_by_name(tmp_path, members) -> None:
    write_shards(tmp_path, train=4, test=4)
    write_shard(tmp_path / "train-000009.tar", {"a.png": png(0), **members})
    with pytest.raises(DataError, match=r"train-000009.tar .*\(multi-label\)"):
        open_splits(f"webdataset:{tmp_path}", image_size=16)


def test_the_range_of_grey_values_is_measured_over_shards(tmp_path) -> None:
    for split, top in (("train", 4000), ("val", 900), ("test", 900)):
        members: dict[str, bytes] = {}
        for i in range(4):
            file = io.BytesIO()
            Image.fromarray(np.linspace(0, top, 64).astype(np.uint16).reshape(8, 8)).save(file, "PNG")
            members |= {f"{i}.png": file.getvalue(), f"{i}.cls": b"%d" % (i % 2)}
        write_shard(tmp_path / f"{split}-0.tar", members)
    splits = open_splits(f"webdataset:{tmp_path}", image_size=8, augmentation="none", cache="memory")
    assert splits.grey_range == (0, 4095)
    assert float(splits.test[0][0].max()) == pytest.approx(900 / 4095)
    assert splits.notes[1].startswith("of 4 training images that were looked at, 4 images have more than 8 bits")


@pytest.mark.parametrize("val", ["validation", "valid", "dev", "Val"])
def test_a_split_of_rows_is_known_by_any_of_its_names(fake_datasets, val) -> None:
    loaded = {name: FakeRows(fake_datasets, [0, 1, 0, 1]) for name in ("train", val, "test", "unsupervised")}
    fake_datasets.load_dataset = lambda name: loaded
    splits = open_splits("huggingface:some/name", image_size=16)
    assert [len(one) for one in (splits.train, splits.val, splits.test)] == [4, 4, 4]
    assert splits.notes[0] == (
        "data: 16 rows of huggingface:some/name: 4 training, 4 validation, 4 test; "
        "4 not counted: 4 in splits that are not read (unsupervised); read when needed"
    )
    loaded["development"] = FakeRows(fake_datasets, [0, 1])
    with pytest.raises(DataError, match=f"has {val} and development, which mean the same"):
        open_splits("huggingface:some/name", image_size=16)


def test_rows_without_labels_are_told(fake_datasets) -> None:
    loaded = {"train": FakeRows(fake_datasets, [0, 1, 0, 1]), "validation": FakeRows(fake_datasets, [0, 1])}
    fake_datasets.load_dataset = lambda name: {**loaded, "test": FakeRows(fake_datasets, [-1] * 7)}
    notes = open_splits("huggingface:some/name", image_size=16).notes
    assert "7 not counted: 7 without labels (test)" in notes[0]


@pytest.mark.parametrize("is_list", [False, True])
def test_rows_with_several_labels_are_refused_by_name(fake_datasets, is_list) -> None:
    rows = FakeRows(fake_datasets, [0, 1])
    label = rows.features.pop("label")
    rows.features["tags"] = [label] if is_list else types.SimpleNamespace(feature=label)
    fake_datasets.load_dataset = lambda name: {"train": rows, "test": rows}
    with pytest.raises(DataError, match=r"has a list of them in tags \(multi-label\)"):
        open_splits("huggingface:some/name", image_size=16)
