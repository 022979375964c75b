"""Folders of outputs: a command replaces what an earlier call of the same command has written, and nothing else.

    OUT/.protokern-outputs.jsonl   one line for each file, with its checksum, on the disk before the file gets its name

A file whose checksum is listed is ours. A file that is not listed, or was changed since, belongs to somebody else and
is kept; so is a file that is also an input. Copying or moving the folder does not change this.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from protokern.errors import CheckpointError
from protokern.storage.files import append_synced, replacing, sha256, translate_write_errors
from protokern.storage.names import left_by_a_dead_process, temporary_path

LISTING = ".protokern-outputs.jsonl"
_FORMAT = "protokern-outputs-1"
_HEADER = json.dumps({"format": _FORMAT}) + "\n"
_LARGEST = 64 * 2**20  # bytes of a listing
_MANY = 10_000  # lines; a longer listing drops outdated lines
_STAGE = "protokern"
_ADVICE = "Move it away, or give another folder."

# (name, command, SHA-256) of everything that was written here.
_Written = set[tuple[str, str, str]]


class Outputs:
    """The outputs of one command in a folder; see `claim_outputs`."""

    def __init__(self, folder: Path, by: str, argument: str, inputs: Sequence[Path], *, trusts_unlisted: bool) -> None:
        self.folder = folder
        self._by, self._argument = by, argument
        self._inputs = [os.stat(path) for path in inputs if os.path.exists(path)]
        self._trusts_all = trusts_unlisted and not os.path.lexists(folder / LISTING)
        self._is_tidy = False

    def check(self, names: Iterable[str]) -> None:
        """Raise a CheckpointError if one of these names is taken by a file that this command may not replace."""
        written = _read_listing(self.folder)
        for name in names:
            if problem := self._problem(name, written):
                raise CheckpointError(
                    f"{self._argument}: must hold no files of others that would be replaced; "
                    f"got {self.folder / name}, which {problem}. {_ADVICE}"
                )

    def _problem(self, name: str, written: _Written) -> str | None:
        """Why `name` must not be written; None if it may be."""
        path = self.folder / name
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if any(os.path.samestat(status, one) for one in self._inputs):
            return "is an input of this command"
        if not stat.S_ISREG(status.st_mode):
            return "is a link" if stat.S_ISLNK(status.st_mode) else "is not a plain file"
        if self._trusts_all:
            return None
        listed = {checksum for one, by, checksum in written if one == name and by == self._by}
        if not listed:
            return f"'protokern {self._by}' did not write"
        return None if _checksum(path) in listed else f"was changed since 'protokern {self._by}' wrote it"

    @contextmanager
    def writing(self, last: str = "") -> Iterator[Path]:
        """A new folder to write files into; they move to their places when the block ends, `last` after the others.

        Raises:
            CheckpointError: a place was taken meanwhile, and nothing was replaced; or the disk is full or not writable.
        """
        with translate_write_errors(self.folder):
            self._make_folder()
            stage = temporary_path(self.folder / _STAGE)
            stage.mkdir()
            try:
                yield stage
                files = sorted(stage.iterdir(), key=lambda path: (path.name == last, path.name))
                self.check(path.name for path in files)
                self._list([(path.name, _checksum(path)) for path in files])
                for path in files:
                    os.replace(path, self.folder / path.name)
            finally:
                shutil.rmtree(stage, ignore_errors=True)

    def replace(self, path: Path, content: bytes) -> None:
        """Write the file `path` of the folder atomically.

        Raises:
            CheckpointError: the place was taken meanwhile, or the disk is full or not writable.
        """
        with translate_write_errors(path):
            self._make_folder()
            with replacing(path, is_durable=False) as file:
                file.write(content)
                self.check([path.name])
                self._list([(path.name, sha256(content))])

    def remove(self, name: str) -> None:
        """Remove the file `name` if this command wrote it; any other file is kept."""
        path = self.folder / name
        if os.path.lexists(path) and self._problem(name, _read_listing(self.folder)) is None:
            path.unlink()

    def _make_folder(self) -> None:
        """Create the folder if it is missing, and remove what killed commands left in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._is_tidy:
            return
        self._is_tidy = True
        written = _read_listing(self.folder)
        if len(written) > _MANY:
            _write_listing(self.folder, {one for one in written if _is_there(self.folder, one)})
        for path in list(self.folder.iterdir()):
            left = left_by_a_dead_process(path.name)
            if left == _STAGE and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif left == LISTING:
                path.unlink()

    def _list(self, files: Iterable[tuple[str, str]]) -> None:
        """Add files to the listing and sync it."""
        new = {(name, self._by, checksum) for name, checksum in files} - _read_listing(self.folder)
        if not new:
            return
        path = self.folder / LISTING
        if not path.exists():
            _write_listing(self.folder, new)
            return
        append_synced(path, "".join(["\n", *map(_line, sorted(new))]).encode())  # the last line may be truncated


def claim_outputs(
    folder: Path,
    names: Iterable[str],
    *,
    by: str,
    argument: str = "--out",
    inputs: Sequence[Path] = (),
    trusts_unlisted: bool = False,
) -> Outputs:
    """Check, before the work begins, that files may be written into a folder; this writes nothing.

    Args:
        folder: need not exist.
        names: of the files.
        by: the command; it may replace what the folder's listing says it has written before.
        argument: the argument that gave the folder, for messages.
        inputs: files that are read and so must not be replaced, whatever their name in the folder.
        trusts_unlisted: the folder is one that a run keeps for this command: if it has no listing, its files of these
            names are from an older version and may be replaced.

    Raises:
        CheckpointError: the folder is a file or cannot be written, or one of the names is taken by another file.
    """
    _check_writable(folder, argument)
    outputs = Outputs(folder, by, argument, inputs, trusts_unlisted=trusts_unlisted)
    outputs.check(names)
    return outputs


def _check_writable(folder: Path, argument: str) -> None:
    """Raise a CheckpointError unless the folder is writable or can be created."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise CheckpointError(f"{argument}: must be a folder; got the file {nearest}. Give another one.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise CheckpointError(
            f"{argument}: must be a folder that can be written; got {folder}. "
            "Allow to write there, or give another one."
        )


def list_folder(folder: Path, by: str) -> None:
    """Write a listing of everything in a folder that is replaced as a whole."""
    _write_listing(folder, {(path.name, by, _checksum(path)) for path in folder.iterdir()})


def check_whole_folder(folder: Path, by: str, is_ours: Callable[[str], bool]) -> None:
    """Raise a CheckpointError unless a folder, if it is there, may be replaced as a whole.

    Args:
        folder: a folder that a run keeps for this command.
        by: the command.
        is_ours: whether it writes files of this name; asked if the folder has no listing.
    """
    if not folder.is_dir():
        return
    written = _read_listing(folder)
    is_listed = os.path.lexists(folder / LISTING)
    for path in sorted(folder.iterdir()):
        if path.name == LISTING:
            continue
        is_plain = stat.S_ISREG(os.lstat(path).st_mode)
        if is_plain and ((path.name, by, _checksum(path)) in written if is_listed else is_ours(path.name)):
            continue
        raise CheckpointError(
            f"{folder}: must hold only what protokern wrote there, because it is replaced as a whole; "
            f"got {path.name}, which it did not write, or not as it is now. Move it away."
        )


def _line(one: tuple[str, str, str]) -> str:
    return json.dumps(dict(zip(("name", "by", "sha256"), one, strict=True))) + "\n"


def _is_there(folder: Path, one: tuple[str, str, str]) -> bool:
    path = folder / one[0]
    return path.is_file() and _checksum(path) == one[2]


def _write_listing(folder: Path, written: _Written) -> None:
    with replacing(folder / LISTING) as file:
        file.write("".join([_HEADER, *map(_line, sorted(written))]).encode())


def _read_listing(folder: Path) -> _Written:
    """What was written into a folder; empty if there is no listing. A truncated last line does not count.

    Raises:
        CheckpointError: there is something else of that name.
    """
    path = folder / LISTING
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise CheckpointError(f"{path}: must be a plain file; it is not. {_ADVICE}")
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    first, *lines = content.decode("utf-8", "replace").split("\n")
    if first + "\n" != _HEADER or len(content) > _LARGEST:
        raise CheckpointError(f"{path}: must be a list of outputs of this version; it is something else. {_ADVICE}")
    return {entry for line in lines if (entry := _parse(line)) is not None}


def _parse(line: str) -> tuple[str, str, str] | None:
    try:
        table = json.loads(line)
        return str(table["name"]), str(table["by"]), str(table["sha256"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
