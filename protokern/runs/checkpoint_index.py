"""`checkpoints/latest.json`: which checkpoints there are, which is the latest, and where training resumes.

A checkpoint exists once the index names it. A folder that it does not name was left by a process that was killed.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from protokern.errors import CheckpointError
from protokern.storage.files import CHECKSUM, check_format, check_seal, read_json, seal, to_json_bytes, write_file

INDEX_FORMAT = "protokern-checkpoints-1"
INDEX_FILE = "latest.json"
_NAME = re.compile(r"[a-z_][a-z0-9_-]*")  # such as joint-3-batch-12; no path that leads out of the folder


@dataclass(kw_only=True, slots=True)
class CheckpointIndex:
    """The checkpoints of a run, by name.

    Attributes:
        latest: the newest checkpoint; None: there is none.
        resume: the checkpoint from which training resumes.
        needed: the checkpoints whose weights a training that resumes from `resume` may restore later.
        written: all checkpoints, in the order in which they were written.
    """

    latest: str | None
    resume: str | None
    needed: list[str]
    written: list[str]


def checkpoints_folder(run_dir: Path) -> Path:
    """Where a run's checkpoints are."""
    return run_dir / "checkpoints"


def checkpoint_folder(run_dir: Path, name: str) -> Path:
    """The folder of the checkpoint `name`.

    Raises:
        CheckpointError: `name` is no name of a checkpoint; it might lead out of the run folder.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CheckpointError(f"{run_dir}: must name checkpoints by letters, digits, _ and -; got {name!r}.")
    return checkpoints_folder(run_dir) / name


def _check_links(run_dir: Path) -> None:
    """Refuse links in a run folder, through which files elsewhere could be written or removed.

    Raises:
        CheckpointError: a link in the folder leads out of it.
    """
    home = run_dir.resolve()
    for folder in (run_dir, checkpoints_folder(run_dir)):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise CheckpointError(
                    f"{path}: must not be a link that leads out of the run folder. Put there what it points to, or "
                    "make the run folder itself the link."
                )


def read_index(run_dir: Path) -> CheckpointIndex:
    """Read the index of a run folder; it is empty before the first checkpoint.

    Raises:
        CheckpointError: the index is broken or of a newer format, or links lead out of the run folder.
    """
    _check_links(run_dir)
    path = checkpoints_folder(run_dir) / INDEX_FILE
    if not path.exists():
        return CheckpointIndex(latest=None, resume=None, needed=[], written=[])
    table = read_json(path)
    if isinstance(table, dict) and "format" not in table:  # from before there were versions and checksums
        table = {"needed": table.get("written"), **table}
    else:
        check_format(path, table, INDEX_FORMAT)
        check_seal(path, table)
        table = {key: value for key, value in table.items() if key not in ("format", CHECKSUM)}
    if table.keys() != {entry.name for entry in fields(CheckpointIndex)}:
        raise CheckpointError(f"{path}: must name the checkpoints of a run; got the keys {', '.join(table)[:200]}.")
    index = CheckpointIndex(**table)
    if not (isinstance(index.needed, list) and isinstance(index.written, list)):
        raise CheckpointError(f"{path}: must list the checkpoints of a run; it does not.")
    for name in (index.latest, index.resume, *index.needed, *index.written):
        if name is not None:
            checkpoint_folder(run_dir, name)
    return index


def remove_index(run_dir: Path) -> None:
    """Remove the index; the folders of the checkpoints stay."""
    (checkpoints_folder(run_dir) / INDEX_FILE).unlink(missing_ok=True)


def write_index(run_dir: Path, index: CheckpointIndex) -> None:
    """Replace the index in one step.

    Raises:
        CheckpointError: the disk is full or not writable; the old index is then kept.
    """
    write_file(checkpoints_folder(run_dir) / INDEX_FILE, to_json_bytes(seal({"format": INDEX_FORMAT, **asdict(index)})))
