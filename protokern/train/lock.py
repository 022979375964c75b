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
from protokern.train.files import explain_write_errors

LOCK_FILE = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)
# Network file systems that were mounted without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LEFTOVER = re.compile(r"\..+\.(\d+)\.(tmp|old)")


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the run folder `folder`, which exists, for this process; what killed writers left there is removed.

    The lock is of the POSIX kind: worker processes do not inherit it, so it is free as soon as this process is gone.

    Raises:
        CheckpointError: another process holds it, or the file cannot be written.
    """
    path = folder / LOCK_FILE
    with explain_write_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        _lock(descriptor, folder)
        remove_leftovers(folder)
        yield
    finally:
        os.close(descriptor)  # which frees the lock


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
            raise CheckpointError(
                f"{folder}: must be written by one process at a time; {holder} is at work on it. "
                "Wait until it is done, or choose another folder."
            ) from error
        if error.errno not in _NO_LOCKS:
            raise CheckpointError(f"{folder}: could not be locked ({error.strerror}).") from error
        warnings.warn(
            f"{folder}: its file system has no locks ({error.strerror}); take care that no other process writes there.",
            stacklevel=4,
        )
        return
    with explain_write_errors(folder / LOCK_FILE):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that no longer live left half-written or half-removed in a run folder."""
    _clean(folder)
    for entry in list(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            _clean(entry)


def _clean(folder: Path) -> None:
    for path in list(folder.iterdir()):
        match = _LEFTOVER.fullmatch(path.name)
        # In a container every process may have the same number: one of ours is from before our time.
        if match is None or (int(match[1]) != os.getpid() and _lives(int(match[1]))):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
