from __future__ import annotations

import errno
import os

import pytest

from protokern.errors import CheckpointError, DataError
from protokern.storage import files
from protokern.storage.files import (
    read_json,
    read_table,
    remove_folder,
    replacing,
    replacing_folder,
    seal,
    to_json_bytes,
    translate_write_errors,
    write_file,
    write_folder,
)


@pytest.fixture
def full_disk(monkeypatch):
    """From now on every sync says that the disk is full."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(files.os, "fsync", fail)


def test_a_file_is_replaced_whole(tmp_path) -> None:
    write_file(tmp_path / "a", b"one")
    write_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_replaced_whole(tmp_path) -> None:
    write_folder(tmp_path / "a", {"x": b"1", "y": b"2"})
    write_folder(tmp_path / "a", {"x": b"3"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {"x": b"3"}
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_leaves_what_was_there_and_no_litter(tmp_path, full_disk) -> None:
    write_file(tmp_path / "file", b"old")
    write_folder(tmp_path / "folder", {"x": b"old"})
    full_disk()
    message = r"could not be written \(No space left on device\)\. What was written before is whole"
    with pytest.raises(CheckpointError, match=message):
        write_file(tmp_path / "file", b"new")
    with pytest.raises(CheckpointError, match=message):
        write_folder(tmp_path / "folder", {"x": b"new"})
    assert (tmp_path / "file").read_bytes() == b"old"
    assert (tmp_path / "folder" / "x").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Make room and start again; a training goes on with --resume."),
        (errno.EDQUOT, "Make room and start again; a training goes on with --resume."),
        (errno.EACCES, "Allow to write there, or give another folder."),
        (errno.EROFS, "Allow to write there, or give another folder."),
        (errno.EIO, "Give another folder, or start again; a training goes on with --resume."),
    ],
)
def test_what_to_do_depends_on_why_nothing_can_be_written(tmp_path, number, advice) -> None:
    with pytest.raises(CheckpointError) as caught, translate_write_errors(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).endswith(f"({os.strerror(number)}). What was written before is whole. {advice}")


def test_removing_what_is_not_there_is_no_mistake(tmp_path) -> None:
    remove_folder(tmp_path / "nothing")


def test_json_refuses_nan(tmp_path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json_bytes({"loss": float("nan")})


def test_a_broken_or_missing_json_file_is_named(tmp_path) -> None:
    (tmp_path / "broken.json").write_text('{"a": ')
    with pytest.raises(CheckpointError, match=r"broken\.json: is not whole"):
        read_json(tmp_path / "broken.json")
    with pytest.raises(CheckpointError, match=r"missing\.json: cannot be read \(No such file or directory\)"):
        read_json(tmp_path / "missing.json")


def test_a_file_is_only_read_when_it_is_plain_and_of_a_size_that_a_run_may_write(tmp_path) -> None:
    with (tmp_path / "hole.json").open("wb") as file:
        file.truncate(10**13)
    with pytest.raises(CheckpointError, match=r"hole\.json: must have at most \d+ bytes; got 10000000000000"):
        read_json(tmp_path / "hole.json")
    os.mkfifo(tmp_path / "pipe.json")  # nobody writes into it: reading would wait for ever
    with pytest.raises(CheckpointError, match=r"pipe\.json: must be a plain file"):
        read_json(tmp_path / "pipe.json")


def test_json_that_is_nested_too_deeply_is_named(tmp_path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"deep\.json: is not whole"):
        read_json(tmp_path / "deep.json")


def test_a_file_is_not_written_through_a_link_that_waits_for_it(tmp_path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match="could not be written"):
        write_file(tmp_path / "a", b"other")
    assert (tmp_path / "precious").read_text() == "mine"
    write_file(tmp_path / "a", b"other")
    assert (tmp_path / "a").read_bytes() == b"other"


def test_a_file_and_a_folder_are_as_they_were_where_the_writer_fails(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()

    def fail(content: bytes) -> None:
        with replacing(tmp_path / "file") as file, replacing_folder(tmp_path / "folder") as folder:
            file.write(content)
            (folder / "new").write_bytes(content)
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        fail(b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path / "folder") == []
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "Make room and call again"), (errno.EROFS, "Allow to write there"), (errno.EIO, "Ask for help")],
)
def test_a_writer_says_what_to_do_in_its_own_words(tmp_path, number: int, advice: str) -> None:
    words = {"error": DataError, "what": "the map was lost", "go_on": "call again", "or_else": "Ask for help"}
    with pytest.raises(DataError) as caught, translate_write_errors(tmp_path, **words):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(
        f"{tmp_path}: the map was lost ({os.strerror(number)}). What was written before"
    )
    assert advice in str(caught.value)


def test_a_table_is_read_once_its_format_and_its_checksum_are_right(tmp_path) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(to_json_bytes(seal({"format": "protokern-map-2", "size": 3})))
    assert read_table(path, "protokern-map-2", sealed_from=2)["size"] == 3
    path.write_bytes(path.read_bytes().replace(b"3", b"4"))
    with pytest.raises(CheckpointError, match="its checksum differs"):
        read_table(path, "protokern-map-2", sealed_from=2)
    with pytest.raises(CheckpointError, match="Update protokern"):
        read_table(path, "protokern-map-1")
    path.write_bytes(to_json_bytes({"format": "protokern-map-1", "size": 3}))  # of before there were checksums
    assert read_table(path, "protokern-map-2", sealed_from=2)["size"] == 3
    with pytest.raises(CheckpointError, match=r"must be of format protokern-map-2; .* Make it again\."):
        read_table(path, "protokern-map-2", oldest=2, remedy="Make it again.")
