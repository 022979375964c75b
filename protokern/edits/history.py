"""The history of edits: `edits.jsonl`, an entry a line, to which lines are only added.

A line is on the disk when `append_entry` returns, whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protokern.edits.records import Edit, EditError, Entry, Redo, Undo, from_table, to_table
from protokern.errors import CheckpointError
from protokern.storage.files import LARGEST_TABLE, append_line, check_format, read_file

EDITS_FILE = "edits.jsonl"
EDITS_FORMAT = "protokern-edits-1"
_HEADER = json.dumps({"kind": "format", "format": EDITS_FORMAT})


def append_entry(path: Path, entry: Entry) -> None:
    """Add an entry to a history, which need not exist; a half line of a killed process is removed first.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    append_line(path, json.dumps(to_table(entry)), first=_HEADER)


def read_history(path: Path) -> list[Entry]:
    """All whole entries of a history, in order; none if it does not exist.

    Raises:
        CheckpointError: it is too large, of a newer format, or a line is no entry.
    """
    if not path.exists():
        return []
    entries: list[Entry] = []
    lines = read_file(path, LARGEST_TABLE).split(b"\n")[:-1]  # the last line is cut off or empty
    for number, line in enumerate(lines, start=1):
        try:
            table = json.loads(line)
            if number == 1:
                if not isinstance(table, dict) or table.get("kind") != "format":
                    raise EditError(f"must name its format, {EDITS_FORMAT!r}")
                check_format(path, table, EDITS_FORMAT)
                continue
            entries.append(from_table(table))
        except EditError as error:
            raise CheckpointError(f"{path}, line {number}: {error}. Mend the line or leave it out.") from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}, line {number}: must be a JSON object ({error}). Mend the line.") from error
    return entries


@dataclass(slots=True)
class Counted:
    """An edit of a history, and whether it counts; one that was undone does not."""

    edit: Edit
    counts: bool = True


def settle(entries: Sequence[Entry]) -> list[Counted]:
    """All edits of a history in order, after undoing and redoing.

    An undo without an edit before it, and a redo without an undo, do nothing.
    """
    edits: list[Counted] = []
    done: list[Counted] = []
    undone: list[Counted] = []
    for entry in entries:
        if isinstance(entry, Undo | Redo):
            source, target = (done, undone) if isinstance(entry, Undo) else (undone, done)
            if source:
                target.append(source.pop())
                target[-1].counts = isinstance(entry, Redo)
        else:
            edits.append(Counted(entry))
            done.append(edits[-1])
            undone.clear()
    return edits
