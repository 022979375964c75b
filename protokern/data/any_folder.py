"""The images in a folder of any layout, without classes."""

from __future__ import annotations

import os
from pathlib import Path

from protokern.data.names import is_ignored
from protokern.data.shards import IMAGE_SUFFIXES
from protokern.errors import DataError


def list_images(folder: Path) -> list[Path]:
    """The image files below a folder, in order; hidden files and files of other kinds are passed over.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"--strangers: must be a folder of images; got {folder}, which is none.")
    found, others = [], 0
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not is_ignored(name)]
        for name in names:
            if is_ignored(name):
                continue
            if Path(name).suffix.lower().removeprefix(".") in IMAGE_SUFFIXES:
                found.append(Path(parent) / name)
            else:
                others += 1
    if not found:
        inside = f"{others} file{'' if others == 1 else 's'} of other kinds" if others else "nothing"
        raise DataError(f"--strangers: must be a folder with images in it; got {folder}, which holds {inside}.")
    return sorted(found)
