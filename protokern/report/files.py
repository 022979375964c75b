"""Writes a page and its pictures beside it, so that there is always a complete page: the old one or the new one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from protokern.report.images import NAME_LENGTH, Stored, name_of
from protokern.storage.files import replace_file

PICTURES = "pictures"  # folder beside the page
_NAME = re.compile(rf"[0-9a-f]{{{NAME_LENGTH}}}\.jpg")
_HALF = re.compile(rf"\.{_NAME.pattern}\.\d+\.tmp")


def write_page(
    page: str,
    path: Path,
    beside: Sequence[Stored] | None = None,
    replace: Callable[[Path, bytes], None] = replace_file,
) -> None:
    """Write a page, and its pictures into a folder beside it that belongs only to this page.

    Pictures are named after their bytes, so no picture ever changes. New pictures are written first, then the page is
    replaced in one step, then pictures that only the old page showed are removed. Parts of file names that are not
    Unicode become question marks.

    Args:
        page: HTML.
        path: of the page.
        beside: the pictures in `PICTURES` that the page shows; others of protokern are removed, and the folder when it
            is empty. None: the page has no such folder, and an existing one is not touched.
        replace: replaces the page by a new one in one step.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent / PICTURES
    if beside:
        folder.mkdir(exist_ok=True)
    for one in beside or ():
        target = folder / one.name
        if not (target.is_file() and target.read_bytes() == one.data):
            replace_file(target, one.data)
    replace(path, page.encode("utf-8", "replace"))
    if beside is not None:
        _remove_others(folder, {one.name for one in beside})


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove the pictures that the page does not show, also half-written ones; other files stay.

    A picture was written by protokern if its name is made of its bytes, in any folder.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name not in names and (_HALF.fullmatch(path.name) or _is_ours(path)):
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _is_ours(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and path.is_file() and name_of(path.read_bytes()) == path.name
