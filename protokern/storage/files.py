"""Files that are complete or absent, however a process ends: the one place that syncs and renames.

Content is written beside its place under a temporary name, synced, and renamed atomically. Tables name their format in
`format`, and may carry their own checksum.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from protokern.errors import CheckpointError, ProtokernError
from protokern.storage.names import temporary_path

# Tables of 10,000 prototypes take a tenth of this. Parsed, JSON may take twenty times its size.
LARGEST_TABLE = 64 * 2**20
CHECKSUM = "checksum"
_AGAIN = "start again; a training goes on with --resume"
_LONGEST_LINE = 2**20  # bytes


@contextmanager
def translate_write_errors(
    path: Path,
    *,
    error: type[ProtokernError] = CheckpointError,
    what: str = "could not be written",
    go_on: str = _AGAIN,
    or_else: str = f"Give another folder, or {_AGAIN}",
) -> Iterator[None]:
    """Turn a disk error (full, read-only, over quota) into one line that names the file.

    Args:
        path: named in the line.
        error: the class to raise.
        what: what failed; follows the path.
        go_on: what to do once there is room.
        or_else: what to do if neither room nor permission is missing; a sentence.
    """
    try:
        yield
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = f"Make room and {go_on}"
        elif failure.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "Allow to write there, or give another folder"
        else:
            advice = or_else
        raise error(
            f"{path}: {what} ({failure.strerror or failure}). What was written before is whole. {advice}."
        ) from failure


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content` atomically.

    Raises:
        CheckpointError: the disk is full or not writable; `path` is then unchanged.
    """
    with translate_write_errors(path), replacing(path) as file:
        file.write(content)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `path` with these files atomically, replacing one that may be there.

    Raises:
        CheckpointError: the disk is full or not writable; `path` is then unchanged.
    """
    with translate_write_errors(path), replacing_folder(path) as folder:
        for name, content in files.items():
            write_synced(folder / name, content)


def replace_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content` atomically, but without a sync: for what can be computed again.

    Raises:
        OSError: the disk is full or not writable; `path` is then unchanged.
    """
    with replacing(path, is_durable=False) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, is_durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that replaces `path` atomically when the block ends; after an error `path` is unchanged.

    Args:
        path: in a folder that exists.
        is_durable: the file and its name are synced. False: after a power cut it may be empty.

    Raises:
        OSError: the disk is full or not writable.
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb", opener=open_itself) as file:
            yield file
            if is_durable:
                _sync(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if is_durable:
        _sync_folder(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder that replaces `path` atomically when the block ends; after an error `path` is unchanged.

    Use `write_synced` for its files.

    Raises:
        OSError: the disk is full or not writable.
    """
    temporary = temporary_path(path)
    try:
        if temporary.exists():  # of a killed process with the same number, as is usual in a container
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        yield temporary
        _sync_folder(temporary)
        remove_folder(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_folder(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write and sync a new file; never through a link at its place.

    Raises:
        OSError: the disk is full or not writable.
    """
    with open(path, "wb", opener=open_itself) as file:
        file.write(content)
        _sync(file)


def write_at(path: Path, offset: int, content: memoryview) -> None:
    """Write `content` into a file at `offset`, truncate the file after it, and sync.

    Raises:
        OSError: the disk is full or not writable.
    """
    descriptor = open_itself(path, os.O_WRONLY | os.O_CREAT)
    try:
        while len(content):
            count = os.pwrite(descriptor, content, offset)
            content, offset = content[count:], offset + count
        os.ftruncate(descriptor, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_synced(path: Path, content: bytes) -> None:
    """Append to a file and sync it.

    Raises:
        OSError: the disk is full or not writable.
    """
    with open(path, "ab", opener=open_itself) as file:
        file.write(content)
        _sync(file)


def append_line(path: Path, line: str, *, first: str) -> None:
    """Append a line and sync; a partial line that a killed process left is removed first.

    Args:
        path: the file, which begins with the line `first`.
        line: without the newline.
        first: without the newline.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    with translate_write_errors(path), open(path, "ab+", opener=open_itself) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LONGEST_LINE))
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            size -= len(tail.rpartition(b"\n")[2])
            file.truncate(size)
        file.write((f"{line}\n" if size else f"{first}\n{line}\n").encode())
        _sync(file)


def open_itself(path: Path | str, flags: int) -> int:
    """Open, or with O_CREAT create, a file, not a link, which might lead out of the folder."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is never seen half empty under its name."""
    if path.exists():
        dying = temporary_path(path, "old")
        if dying.exists():
            shutil.rmtree(dying)
        os.replace(path, dying)
        shutil.rmtree(dying)


def to_json_bytes(content: Any) -> bytes:
    """Readable JSON with a final newline. NaN is refused, because other readers would not accept it."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path, at_most: int = LARGEST_TABLE, *, remedy: str = "") -> Any:
    """The content of a JSON file of a run that has at most `at_most` bytes; `remedy` ends the message of a broken one.

    Raises:
        CheckpointError: missing, too large or broken.
    """
    try:
        return json.loads(read_file(path, at_most).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not whole ({error}). {remedy}".rstrip()) from error


def read_table(
    path: Path, newest: str, *, oldest: int = 1, sealed_from: int | None = None, remedy: str = ""
) -> dict[str, Any]:
    """The content of a JSON file of a run, after a check of its format and its checksum.

    Args:
        path: of the file.
        newest: the current name and version, see `check_format`.
        oldest: version that can still be read.
        sealed_from: first version whose table has a checksum; None: it has none.
        remedy: what to do about another version, or a broken file.

    Raises:
        CheckpointError: missing, too large, broken, of another format, or changed since it was written.
    """
    table: dict[str, Any] = read_json(path, remedy=remedy)
    version = check_format(path, table, newest, oldest=oldest, remedy=remedy)
    if sealed_from is not None and version >= sealed_from:
        check_seal(path, table)
    return table


def read_file(path: Path, at_most: int) -> bytes:
    """All bytes of a file of a run, after a check that it is a plain file of at most `at_most` bytes.

    Raises:
        CheckpointError: missing, too large or not a plain file.
    """
    try:
        with open(path, "rb", opener=_open_now) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path}: must be a plain file; it is not.")
            if status.st_size > at_most:
                raise CheckpointError(
                    f"{path}: must have at most {at_most} bytes; got {status.st_size}. No run wrote such a file."
                )
            return file.read(at_most)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}). Is this the folder of a run?") from error


def _open_now(path: str, flags: int) -> int:
    """Open without waiting for a writer if it is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def check_format(path: Path, table: Any, newest: str, *, oldest: int = 1, remedy: str = "") -> int:
    """The version of a table that names its format in `format`.

    Args:
        path: the file of the table.
        table: the content.
        newest: the current name and version, such as "protokern-checkpoint-2".
        oldest: version that can still be read.
        remedy: what to do about another version.

    Raises:
        CheckpointError: another format, or a version that is newer than this program or too old for it.
    """
    name, _, last = newest.rpartition("-")
    text = table.get("format") if isinstance(table, dict) else None
    start, _, version = text.rpartition("-") if isinstance(text, str) else ("", "", "")
    is_ours = start == name and version.isascii() and version.isdigit() and len(version) < 10
    if is_ours and int(version) > int(last):
        raise CheckpointError(f"{path}: is of format {text}; this version reads up to {newest}. Update protokern.")
    if not is_ours or int(version) < oldest:
        raise CheckpointError(" ".join(f"{path}: must be of format {newest}; got {text!r}. {remedy}".split()))
    return int(version)


def seal(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with a checksum of its content."""
    return {**table, CHECKSUM: sha256(to_json_bytes(table))}


def check_seal(path: Path, table: Mapping[str, Any]) -> None:
    """Raise a CheckpointError unless `table`, read from `path`, matches its checksum."""
    content = {key: value for key, value in table.items() if key != CHECKSUM}
    try:
        found = sha256(to_json_bytes(content))
    except ValueError:  # NaN, which is never written
        found = None
    if table.get(CHECKSUM) != found:
        raise CheckpointError(
            f"{path}: is not as it was written: its checksum differs. Go back to an older checkpoint or a copy."
        )


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
