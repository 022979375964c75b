"""One writer at a time: a lock on a run folder that the kernel frees when its process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protokern.errors import CheckpointError
from protokern.storage.files import open_itself, translate_write_errors
from protokern.storage.names import left_by_a_dead_process

LOCK_FILE = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)
# Network file systems that were mounted without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_HOLDER = b"process "
# What a run writes, by folder; nothing else is ever removed as a leftover.
_OF_A_RUN = {
    "": re.compile(r"run\.toml|log\.jsonl|(metrics|split|forbidden|imported)\.json|prototypes"),
    "checkpoints": re.compile(r"latest\.json|[a-z_][a-z0-9_-]*"),
    "prototypes": re.compile(r"prototypes\.json|\.protokern-outputs\.jsonl"),
    "report": re.compile(r"index\.html|\.protokern-outputs\.jsonl"),
    "importance": re.compile(r"[a-z-]+\.(csv|json|svg|png)|protokern|\.protokern-outputs\.jsonl"),
}


def open_lock(path: Path) -> int:
    """A descriptor of the lock's file, which is created if missing; closing it frees the lock."""
    return open_itself(path, os.O_RDWR | os.O_CREAT)


def take_lock(descriptor: int, *, of_process: bool = False) -> bool:
    """Take a lock if it is free, and say whether it was.

    Args:
        descriptor: of `open_lock`.
        of_process: worker processes do not inherit the lock (POSIX), and it excludes nobody within this process. False:
            it also excludes other descriptors of this process, and is held until all workers have ended (BSD).

    Raises:
        OSError: the file system has no locks, or fails.
    """
    lock = fcntl.lockf if of_process else fcntl.flock
    try:
        lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock the existing run folder `folder` for this process, and remove what killed writers left there.

    The lock is of the POSIX kind: worker processes do not inherit it, so it is free as soon as this process has ended.

    Raises:
        CheckpointError: another process holds it, or the file cannot be written.
    """
    path = folder / LOCK_FILE
    with translate_write_errors(path):
        descriptor = open_lock(path)
    try:
        _lock(descriptor, folder)
        _sign(descriptor, folder)
        remove_leftovers(folder)
        yield
    finally:
        os.close(descriptor)  # which frees the lock


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock of a run folder; False where there are no locks.

    It asks by a shared lock, which it holds for a moment.
    """
    try:
        descriptor = open_itself(folder / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _TAKEN
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int, folder: Path) -> None:
    try:
        is_free = take_lock(descriptor, of_process=True)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise CheckpointError(f"{folder}: could not be locked ({error.strerror}).") from error
        warnings.warn(
            f"{folder}: its file system has no locks ({error.strerror}); take care that no other process writes there.",
            stacklevel=4,
        )
        return
    if not is_free:
        holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
        raise CheckpointError(
            f"{folder}: must be written by one process at a time; {holder} is at work on it. "
            "Wait until it is done, or choose another folder."
        )


def _sign(descriptor: int, folder: Path) -> None:
    """Write into the lock's file who holds it."""
    content = os.pread(descriptor, len(_HOLDER), 0).strip(b"\0")
    if not _HOLDER.startswith(content):
        raise CheckpointError(
            f"{folder}: must have no {LOCK_FILE} of another program; it has one. "
            "Choose another folder, or move it away."
        )
    with translate_write_errors(folder / LOCK_FILE):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _HOLDER + f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def remove_leftovers(folder: Path) -> None:
    """Remove what dead processes left half-written or half-removed in a run folder."""
    for place, names in _OF_A_RUN.items():
        inside = folder / place
        if inside.is_dir() and not inside.is_symlink():
            _clean(inside, names)


def _clean(folder: Path, names: re.Pattern[str]) -> None:
    for path in list(folder.iterdir()):
        name = left_by_a_dead_process(path.name)
        if name is None or not names.fullmatch(name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
