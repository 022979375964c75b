"""Where a command may write: neither among the data nor in the folders that a run keeps for itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from protokern.config import RunConfig
from protokern.errors import CheckpointError
from protokern.runs.data import data_folder
from protokern.runs.open import OpenRun
from protokern.storage.outputs import Outputs, claim_outputs

KEPT_FOLDERS = ("checkpoints", "features", "prototypes", "importance", "report")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether `path`, which need not exist, is `folder` or lies in it, also through links or other letter cases."""
    if not folder.is_dir():
        return False
    real = Path(os.path.realpath(path))
    return any(above.exists() and above.samefile(folder) for above in (real, *real.parents))


def _linked_folders(data: Path) -> list[Path]:
    """Splits and classes of a data folder that are links to folders elsewhere."""
    splits = [entry for entry in os.scandir(data) if entry.is_dir()]
    classes = (entry for split in splits for entry in os.scandir(split))
    return [Path(entry) for entry in (*splits, *classes) if entry.is_symlink() and entry.is_dir()]


def check_outside_data(path: Path, config: RunConfig, argument: str) -> None:
    """Raise a CheckpointError if `path` lies in the data folder, where outputs would be read as images."""
    data = data_folder(config)
    if data is not None and any(is_inside(path, folder) for folder in (data, *_linked_folders(data))):
        raise CheckpointError(
            f"{argument}: must be outside of the data folder {data}; got {path}. Give another folder."
        )


def check_out(path: Path, opened: OpenRun, *, own: str = "") -> None:
    """Raise a CheckpointError unless the outputs of a command may lie in `path`.

    Args:
        path: what --out says.
        opened: the run that the command is about.
        own: the folder that the run keeps for this command, if there is one.
    """
    check_outside_data(path, opened.config, "--out")
    for name in KEPT_FOLDERS:
        if name != own and is_inside(path, opened.folder / name):
            raise CheckpointError(
                f"--out: must not be a folder that the run keeps for itself; got {path}. "
                f"Give another one, such as {opened.folder / 'out'}."
            )


def claim_numbers(opened: OpenRun, out: str | None, names: Iterable[str], *, by: str) -> Outputs | None:
    """Claim the folder for the numbers of a command, in which no file of others will be replaced.

    Args:
        opened: the run that the command is about.
        out: what --out says; None: the run folder.
        names: of the files that the command writes.
        by: name of the command.

    Returns:
        None where `out` is None and the run may only be read.
    """
    if out is None and not os.access(opened.folder, os.W_OK | os.X_OK):
        return None
    folder = opened.folder if out is None else Path(out)
    if out is not None:
        check_out(folder, opened)
    return claim_outputs(folder, names, by=by, argument=str(folder) if out is None else "--out")
