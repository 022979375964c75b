"""Files that are whole or not there: written beside their place, synced, renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protokern.errors import CheckpointError


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn a failing disk (full, read-only, over quota) into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path}: could not be written ({error.strerror or error}). "
            "What was written before is whole; make room and go on with --resume."
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content` at once.

    Raises:
        CheckpointError: the disk is full or refuses; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explain_write_errors(path):
        try:
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
    """Write a new file through to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
        dying = path.with_name(f".{path.name}.{os.getpid()}.old")
        os.replace(path, dying)
        shutil.rmtree(dying)


def to_json_bytes(content: Any) -> bytes:
    """Readable JSON with a final newline. NaN is refused: other readers would not take it."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run.

    Raises:
        CheckpointError: missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}). Is this the folder of a run?") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not whole ({error}).") from error
