"""Files that are whole or not there: written beside their place, synced, renamed."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protokern.errors import CheckpointError, advice_on_write
from protokern.storage.names import temporary_path

# Tables of 10,000 prototypes take a tenth of this. Parsed, JSON may take twenty times its size.
LARGEST_TABLE = 64 * 2**20


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn a failing disk (full, read-only, over quota) into one line that names the file."""
    try:
        yield
    except OSError as error:
        again = "start again; a training goes on with --resume"
        advice = advice_on_write(error, again, f"Give another folder, or {again}")
        raise CheckpointError(f"{path}: could not be written ({error.strerror or error}). {advice}") from error


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content` at once.

    Raises:
        CheckpointError: the disk is full or refuses; `path` is then as it was.
    """
    temporary = temporary_path(path)
    with explain_write_errors(path):
        try:
            write_synced(temporary, content)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `path` with these files at once, in place of one that may be there.

    Raises:
        CheckpointError: the disk is full or refuses; `path` is then as it was.
    """
    temporary = temporary_path(path)
    with explain_write_errors(path):
        try:
            if temporary.exists():  # of a killed process with the same number, as all have in a container
                shutil.rmtree(temporary)
            temporary.mkdir(parents=True)
            for name, content in files.items():
                write_synced(temporary / name, content)
            sync_folder(temporary)
            remove_folder(path)
            os.replace(temporary, path)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file through to the disk; never through a link that waits at its place."""
    with open(path, "wb", opener=_open_own) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _open_own(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is never seen half empty under its own name."""
    if path.exists():
        dying = temporary_path(path, "old")
        if dying.exists():
            shutil.rmtree(dying)
        os.replace(path, dying)
        shutil.rmtree(dying)


def to_json_bytes(content: Any) -> bytes:
    """Readable JSON with a final newline. NaN is refused: other readers would not take it."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path, at_most: int = LARGEST_TABLE) -> Any:
    """The content of a JSON file of a run, of `at_most` so many bytes.

    Raises:
        CheckpointError: missing, too large or broken.
    """
    try:
        return json.loads(read_file(path, at_most).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not whole ({error}).") from error


def read_file(path: Path, at_most: int) -> bytes:
    """All bytes of a file of a run, which is first seen to be a plain file of `at_most` so many bytes.

    Raises:
        CheckpointError: missing, too large or no plain file.
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
    """Open without waiting for somebody who writes into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)
