"""Which folders of a data folder are splits and classes, in every way that people name and arrange them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protokern.data.account import PassedOver
from protokern.data.class_names import class_indices
from protokern.data.links import check_links
from protokern.data.names import SPLIT_NAMES, pairs_within, similar_split, split_of
from protokern.data.scan import (
    Sample,
    check_same_classes,
    find_samples,
    is_ignored,
    listed,
    num_files,
    pass_beside,
    tables_message,
)
from protokern.data.signatures import HEAD_BYTES, describe_content
from protokern.errors import DataError

ALL = "all"


@dataclass(frozen=True, slots=True)
class Found:
    """What a data folder holds.

    Attributes:
        folders: the folders of the splits, by what they are; empty for a folder of class folders alone.
        samples: files and class indices by split; "all" where there are no splits.
        classes: class names.
        notes: lines for the log.
    """

    folders: dict[str, Path]
    samples: dict[str, list[Sample]]
    classes: list[str]
    notes: list[str]


def find_images(root: Path, passed: PassedOver) -> Found:
    """Find the splits, the classes and their files; `passed` gets what does not count.

    Raises:
        DataError: the folder cannot be used as it is.
    """
    folders = _split_folders(root)
    if folders:
        _check_for_table(root, folders["train"])
        scanned = {name: find_samples(folder, passed) for name, folder in folders.items()}
        classes = scanned["train"][1]
        for name, (_, split_classes) in scanned.items():
            check_same_classes(classes, split_classes, folders[name])
        found = {}
        for name, (split_samples, split_classes) in scanned.items():
            index = class_indices(classes, split_classes)
            found[name] = [(path, index[label]) for path, label in split_samples]
        pass_beside(root, list(folders.values()), passed)
    else:
        _check_classes_of(root)
        pass_beside(root, [entry for entry in sorted(root.iterdir()) if entry.is_dir()], passed)
        found = {}
        found[ALL], classes = find_samples(root, passed, has_files=True)
    samples, notes = check_links(root, found, classes, passed)
    similar = pairs_within(classes)
    if similar:
        notes.append(f"class names that look alike: {similar}; if they are one class, put their images together")
    return Found(folders, samples, classes, notes)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits; empty where the folder has class folders alone.

    Raises:
        DataError: no such folder, two folders of one meaning, or a split is missing.
    """
    if not root.exists():
        raise DataError(f"data: must be a folder; got {root}, which does not exist. Check the path.")
    if not root.is_dir():
        raise DataError(f"data: must be a folder; got the file {root}{_kind_of(root)}. {_ADVICE}")
    inside = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not is_ignored(entry.name)]
    of_split: dict[str, list[Path]] = {name: [] for name in SPLIT_NAMES}
    for entry in inside:
        split = split_of(entry.name)
        if split is not None and _holds_folders(entry, among=inside):
            of_split[split].append(entry)
    for entries in of_split.values():
        if len(entries) > 1:
            names = " and ".join(f"{entry.name}/" for entry in entries)
            raise DataError(
                f"data: must have one folder for each split; got {names} in {root}, which mean the same. "
                "Put their images together, or move one of them away."
            )
    folders = {name: entries[0] for name, entries in of_split.items() if entries}
    missing = [name for name in SPLIT_NAMES if name not in folders]
    others = [entry.name for entry in inside if entry not in folders.values()]
    if not folders and len(inside) > 1:
        return {}
    _check_similar(root, missing if folders else [], others)
    lacking = [f"{name}/" for name in ("train", "test") if name in missing]
    if lacking:
        raise DataError(_missing_message(root, [entry.name for entry in inside], lacking))
    return folders


_ADVICE = "Give the folder that holds train/ and test/, or one folder for each class."


def _missing_message(root: Path, inside: Sequence[str], lacking: Sequence[str]) -> str:
    table = tables_message(root)
    if table is not None and len(inside) < 2:
        return table
    found = f"the folders {', '.join(inside[:10])}" if inside else "no folder"
    advice = "Sort the images into these folders."
    if len(inside) == 1 and any(split_of(entry.name) for entry in (root / inside[0]).iterdir() if entry.is_dir()):
        advice = f"Give {root / inside[0]}."
    return (
        f"data: must hold train/ and test/ (val/ if you like), each with one folder a class, or one folder for each of "
        f"two or more classes; got {found} in {root}, without {' and '.join(lacking)}. {advice}"
    )


def _check_similar(root: Path, missing: Sequence[str], others: Sequence[str]) -> None:
    """Refuse a folder that is most likely a split which is missing, by a name that nobody reads so."""
    for name in others:
        meant = similar_split(name, missing)
        if meant is not None:
            raise DataError(
                f"data: must have folders called train, val and test; got {name!r} in {root}, which looks like "
                f"{meant!r}, and no {meant}/. Rename it, or move it away."
            )


def _holds_folders(entry: Path, among: Sequence[Path]) -> bool:
    """Whether a folder is a split by its content too: among class folders, train/ may hold pictures of trains."""
    if any(child.is_dir() and not is_ignored(child.name) for child in entry.iterdir()):
        return True
    return not any(split_of(other.name) is None for other in among)


def _check_classes_of(root: Path) -> None:
    """Refuse folders that are no classes: of several data sets, or of a data set with a table of labels."""
    inside = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not is_ignored(entry.name)]
    for entry in inside:
        splits = [child.name for child in sorted(entry.iterdir()) if child.is_dir() and split_of(child.name)]
        if len({split_of(name) for name in splits}) > 1:
            raise DataError(
                f"data: must be one data folder; got {root}, in which {entry.name}/ holds {listed(splits)}. "
                f"Give {entry}."
            )
    if sum(num_files(entry) > 0 for entry in inside) < 2:
        table = tables_message(root)
        if table is not None:
            raise DataError(table)


def _check_for_table(root: Path, train: Path) -> None:
    """Refuse images without class folders whose labels are in a table beside train/."""
    table = tables_message(root)
    if table is not None and not any(entry.is_dir() and not is_ignored(entry.name) for entry in train.iterdir()):
        raise DataError(table)


def _kind_of(path: Path) -> str:
    """What a file is, where that helps: an archive, most often."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return ""
    said = describe_content(head, len(head)).removeprefix("not an image: ") if head else ""
    return f" ({said})" if "archive" in said else ""
