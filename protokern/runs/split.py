"""RUN/split.json: the split of a data folder that holds only class folders. All commands and resumed runs use it."""

from __future__ import annotations

from pathlib import Path

from protokern.data.own_split import SPLITS, OwnSplit
from protokern.errors import CheckpointError, ProtokernError
from protokern.storage.files import read_table, seal, to_json_bytes, write_file

SPLIT_FILE = "split.json"
_FORMAT = "protokern-split-1"


def write_own_split(run: Path, split: OwnSplit) -> None:
    """Write the split into the run folder, which exists."""
    table = {"format": _FORMAT, "seed": split.seed, "files": {name: list(split.files[name]) for name in SPLITS}}
    write_file(run / SPLIT_FILE, to_json_bytes(seal(table)))


def settle_own_split(run: Path, split: OwnSplit | None) -> None:
    """Write this split, or remove the file if it is None; the training in the folder has not finished a step."""
    if split is not None:
        write_own_split(run, split)
    else:
        (run / SPLIT_FILE).unlink(missing_ok=True)


def is_own_split_file(path: Path) -> bool:
    """Whether the file is as `write_own_split` wrote it, so that replacing it loses no change made by hand."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        return read_own_split(path.parent) is not None
    except ProtokernError:
        return False


def read_own_split(run: Path) -> OwnSplit | None:
    """The split that `write_own_split` wrote; None if the run has none.

    Raises:
        CheckpointError: the file is broken or of a newer version.
    """
    path = run / SPLIT_FILE
    if not path.exists():
        return None
    table = read_table(path, _FORMAT, sealed_from=1)
    try:
        files = {name: tuple(map(str, table["files"][name])) for name in SPLITS}
        return OwnSplit(files, int(table["seed"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: must say which image is in which split; it is broken ({error!r}).") from error
