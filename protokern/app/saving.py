"""Saving an edited net from its page: as a new run beside the one that was edited."""

from __future__ import annotations

import os
import re
from typing import Any

from protokern.app.room import Room
from protokern.edits.records import EditError
from protokern.edits.saving import write_edited
from protokern.report.numbers import percent

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")


def save_as(room: Room, name: str) -> dict[str, Any]:
    """Write the net that the page shows as a new run, in the folder that holds the run.

    Args:
        room: the run.
        name: of the new run's folder: letters of ASCII, digits, ".", "_" and "-".

    Returns:
        Its folder, and how many test images it answers rightly, and the net without edits.

    Raises:
        EditError: the name is no such name or is taken, nothing was edited, or the folder cannot be made.
        CheckpointError: the folder may not be there, or the disk is full.
    """
    editor, net = room.editor, room.current.net
    if not _NAME.fullmatch(name):
        raise EditError(
            f"name: must be a folder's name of letters, digits, '.', '_' and '-', 80 at most; got {name[:90]!r}."
        )
    if net is None or not editor.can_undo or room.splits is None:
        raise EditError("There is nothing to save: no edit counts.")
    folder = room.run.folder.resolve().parent / name
    if os.path.lexists(folder):
        raise EditError(f"name: must be of a folder that does not exist yet; {name} is taken. Give another name.")
    try:
        _, result = write_edited(editor.bench, net, editor.entries, folder, room.splits, room.features("test"))
    except OSError as error:
        raise EditError(f"The net could not be saved in {folder.parent} ({error.strerror or error}).") from error
    before = float(room.base("test").is_right.double().mean())
    return {
        "folder": str(folder),
        "name": name,
        "test": percent(result.accuracy),
        "before": percent(before),
        "images": result.images,
    }
