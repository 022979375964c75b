"""What a data folder holds: finds the classes and files of a split and tells the user what is wrong with them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from protokern.data.class_names import check_distinct, composed
from protokern.data.decode import MAX_PIXELS, check_photo
from protokern.errors import DataError

Sample = tuple[Path, int]

_IGNORED_FILES = ("thumbs.db", "desktop.ini")
_NUM_LISTED = 10


def find_samples(split: Path) -> tuple[list[Sample], list[str]]:
    """List the files of one split folder.

    Files in sub-folders of a class belong to the class. Hidden names, Thumbs.db and desktop.ini are passed over.

    Returns:
        (file, class index) sorted by class and path; and the class names, sorted.

    Raises:
        DataError: no class folders, only one, an empty class folder, or files beside the class folders.
    """
    entries = [entry for entry in sorted(split.iterdir()) if not _is_ignored(entry.name)]
    strays = [entry.name for entry in entries if not entry.is_dir()]
    if strays:
        raise DataError(
            f"data: must hold only class folders in {split}; got {_count(strays, 'file')} there: "
            f"{listed(strays)}. Move each file into the folder of its class."
        )
    if len(entries) < 2:
        found = f"one class, {entries[0].name}" if entries else "none"
        raise DataError(
            f"data: must hold at least two class folders in {split}; got {found}. "
            "Make one folder for each class and put its images there."
        )
    check_distinct([folder.name for folder in entries], split)
    files_of = [_files_below(folder) for folder in entries]
    empty = [folder.name for folder, files in zip(entries, files_of, strict=True) if not files]
    if empty:
        raise DataError(no_images_message(split, empty))
    samples = [(path, label) for label, files in enumerate(files_of) for path in files]
    return samples, [folder.name for folder in entries]


def find_unreadable(samples: Sequence[Sample], *, max_pixels: int = MAX_PIXELS) -> list[tuple[Path, str]]:
    """Decode every file once, by several threads; (file, reason) of each that is no sound image, in order."""
    paths = [path for path, _ in samples]
    with warnings.catch_warnings():
        # Damaged metadata and the first of Pillow's two size limits; what matters of it is in the reasons.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            reasons = list(pool.map(partial(check_photo, max_pixels=max_pixels), paths))
    return [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason is not None]


def no_images_message(split: Path, classes: Sequence[str]) -> str:
    return (
        f"data: must hold at least one image in each class folder of {split}; got none in {listed(classes)}. "
        "Add images or remove the folder from every split."
    )


def check_same_classes(train: Sequence[str], other: Sequence[str], split: Path) -> None:
    """Raise a DataError unless both splits have the same class folders, whatever the form of accents in their names."""
    missing, extra = (
        [name for name in one if composed(name) not in {composed(name) for name in rest}]
        for one, rest in ((train, other), (other, train))
    )
    if not missing and not extra:
        return
    differences = [f"no folder for {listed(missing)}"] if missing else []
    differences += [f"{listed(extra)}, unknown to train"] if extra else []
    raise DataError(
        f"data: must have the classes of train in {split}; got {' and '.join(differences)}. "
        "Give every split one folder for each class, with the same names."
    )


def listed(items: Sequence[object], limit: int = _NUM_LISTED) -> str:
    """The first items, separated by commas, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def listed_files(unreadable: Sequence[tuple[Path, str]]) -> str:
    """The first unreadable files with their reasons, and how many more there are."""
    return listed([f"{path} ({reason})" for path, reason in unreadable])


def _files_below(folder: Path) -> list[Path]:
    def stop(error: OSError) -> None:
        raise DataError(
            f"data: must be a readable folder; got {error.filename} ({error.strerror}). Check its permissions."
        ) from error

    found = []
    for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        folders[:] = [name for name in folders if not _is_ignored(name)]
        found += [Path(parent) / name for name in names if not _is_ignored(name)]
    return sorted(found)


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _IGNORED_FILES


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
