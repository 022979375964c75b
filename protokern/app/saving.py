"""Saving an edited net from its page: as a new run beside the one that was edited."""

from __future__ import annotations

import re
from typing import Any

from protokern.app.room import Room
from protokern.edits.records import EditError
from protokern.edits.saving import write_edited
from protokern.report.numbers import percent
from protokern.runs.folder import check_vacant

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")


def save_as(room: Room, name: str) -> dict[str, Any]:
    """Write the net that the page shows as a new run, in the folder that holds the run.

    Args:
        room: the run.
        name: of the new run's folder: letters of ASCII, digits, ".", "_" and "-".

    Returns:
        Its folder, and how many test images it answers rightly.

    Raises:
        EditError: the name is no such name, or nothing was edited.
        CheckpointError: the folder is taken, or the disk is full.
    """
    editor, net = room.editor, room.current.net
    if not _NAME.fullmatch(name):
        raise EditError(
            f"name: must be a folder's name of letters, digits, '.', '_' and '-', 80 at most; got {name[:90]!r}."
        )
    if net is None or not editor.can_undo or room.splits is None:
        raise EditError("There is nothing to save: no edit counts.")
    folder = room.run.folder.resolve().parent / name
    check_vacant(folder)
    _, result = write_edited(editor.bench, net, editor.entries, folder, room.splits, room.features("test"))
    return {"folder": str(folder), "name": name, "test": percent(result.accuracy), "images": result.images}
