"""What a data folder holds: finds the classes and files of a split and tells the user what is wrong with them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from PIL import Image

from protokern.data.account import PassedOver
from protokern.data.class_names import check_distinct, composed
from protokern.data.decode import PhotoFacts, ReadOptions, inspect_photo, is_deep_photo
from protokern.data.grey import describe_range
from protokern.data.names import name_pairs_alike
from protokern.errors import DataError

Sample = tuple[Path, int]

HIDDEN = "hidden"
_IGNORED_FILES = ("thumbs.db", "desktop.ini")
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".xls", ".parquet", ".yaml", ".yml")
# Folders of data that are arranged by what their files are, not by class.
_NO_CLASSES = ("image", "images", "img", "imgs", "label", "labels", "mask", "masks", "annotations")
_NUM_LISTED = 10


def find_samples(split: Path, passed: PassedOver, *, has_files: bool = False) -> tuple[list[Sample], list[str]]:
    """List the files of one folder of class folders.

    Files in sub-folders of a class belong to the class. Hidden names, Thumbs.db and desktop.ini are passed over.

    Args:
        split: the folder.
        passed: gets what does not count.
        has_files: whether files may lie beside the class folders; who lets them has counted them.

    Returns:
        (file, class index) sorted by class and path; and the class names, sorted.

    Raises:
        DataError: no class folders, only one, an empty class folder, or files beside the class folders.
    """
    if has_files:
        entries = [entry for entry in _listing(split) if entry.is_dir() and not is_ignored(entry.name)]
    else:
        entries = [entry for entry in _listing(split) if not _pass_hidden(entry, passed)]
    strays = [entry.name for entry in entries if not entry.is_dir()]
    if strays:
        raise DataError(
            f"data: must hold only class folders in {split}; got {counted(strays, 'file')} there: "
            f"{listed(strays)}. {_advice_on_tables(strays) or 'Move each file into the folder of its class.'}"
        )
    if len(entries) < 2:
        found = f"one class, {entries[0].name}" if entries else "none"
        raise DataError(
            f"data: must hold at least two class folders in {split}; got {found}. "
            "Make one folder for each class and put its images there."
        )
    if all(entry.name.lower() in _NO_CLASSES for entry in entries):
        raise DataError(
            f"data: must have one folder for each class in {split}; got {listed([entry.name for entry in entries])}, "
            "as data for detection or with several labels in an image (multi-label) have them. "
            "Sort the images into one folder for each class."
        )
    check_distinct([folder.name for folder in entries], split)
    files_of = [_files_below(folder, passed) for folder in entries]
    empty = [folder.name for folder, files in zip(entries, files_of, strict=True) if not files]
    if empty:
        raise DataError(no_images_message(split, empty))
    samples = [(path, label) for label, files in enumerate(files_of) for path in files]
    return samples, [folder.name for folder in entries]


def inspect_photos(samples: Sequence[Sample], options: ReadOptions) -> dict[Path, PhotoFacts]:
    """Decode every file once, by several threads, and say what each turned out to be."""
    paths = [path for path, _ in samples]
    with quiet_pillow(), ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        facts = list(pool.map(partial(inspect_photo, options=options), paths))
    return dict(zip(paths, facts, strict=True))


def describe_deep(paths: Sequence[Path], options: ReadOptions) -> str | None:
    """A line for people about those of some photographs that have more than 8 bits; None where none has."""
    deep = [(path, 0) for path in paths if is_deep_photo(path, options)]
    values = [facts.values for facts in inspect_photos(deep, options).values() if facts.values is not None]
    return describe_range(options.grey_range, values, is_measured=False) if values else None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Leave out Pillow's warnings of damaged metadata and of its size limit; what matters of it is in the reasons."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


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
    similar = name_pairs_alike(missing, extra)
    raise DataError(
        f"data: must have the classes of train in {split}; got {' and '.join(differences)}. "
        + (f"{similar}. " if similar else "")
        + "Give every split one folder for each class, with the same names."
    )


def pass_beside(root: Path, taken: Sequence[Path], passed: PassedOver) -> None:
    """Count what lies in the data folder beside the folders that are `taken`."""
    for entry in _listing(root):
        if _pass_hidden(entry, passed) or entry in taken:
            continue
        if entry.is_dir():
            passed.add("in folders that are no split", f"{entry.name}/", num_files(entry))
        else:
            passed.add("beside the folders", entry.name)


def tables_message(root: Path) -> str | None:
    """What to say where a folder has a table of labels, and no class folders; None where it has none."""
    tables = [entry.name for entry in _listing(root) if entry.is_file() and entry.suffix.lower() in _TABLES]
    if not tables:
        return None
    return f"data: must have one folder for each class; got {listed(tables)} in {root}. {_advice_on_tables(tables)}"


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's."""
    return name.startswith(".") or name.lower() in _IGNORED_FILES


def listed(items: Sequence[object], limit: int = _NUM_LISTED) -> str:
    """The first items, separated by commas, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def listed_files(unreadable: Sequence[tuple[Path, str]]) -> str:
    """The first unreadable files with their reasons, and how many more there are."""
    return listed([f"{path} ({reason})" for path, reason in unreadable])


def counted(items: Sequence[object], noun: str) -> str:
    """How many there are of something, in words."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _advice_on_tables(names: Sequence[str]) -> str:
    if not any(Path(name).suffix.lower() in _TABLES for name in names):
        return ""
    return (
        "A table of labels is not read, and an image has one class: several labels of an image (multi-label) cannot "
        "be learnt. Sort each image into the folder of its class."
    )


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise _unreadable_folder(error) from error


def _pass_hidden(entry: Path, passed: PassedOver) -> bool:
    """Whether an entry is hidden; then it is counted."""
    if not is_ignored(entry.name):
        return False
    is_folder = entry.is_dir() and not entry.is_symlink()
    passed.add(HIDDEN, f"{entry.name}/" if is_folder else entry.name, num_files(entry) if is_folder else 1)
    return True


def num_files(folder: Path) -> int:
    """Of files at any depth, links to folders not followed."""
    return sum(len(names) for _, _, names in os.walk(folder))


def _files_below(folder: Path, passed: PassedOver) -> list[Path]:
    """The files of a class, at any depth, also behind links to folders; each folder is entered once."""
    entered = {folder.resolve()}
    found = []
    for parent, folders, names in _walk(folder):
        stays = []
        for name in sorted(folders, key=lambda name: ((parent / name).is_symlink(), name)):  # links last
            path = parent / name
            if _pass_hidden(path, passed):
                continue
            real = path.resolve()
            if path.is_symlink() and any(one.is_relative_to(real) for one in entered):
                passed.add("by a link to a folder that is read already", str(path.relative_to(folder.parent)))
                continue
            entered.add(real)
            stays.append(name)
        folders[:] = stays
        found += [parent / name for name in names if not _pass_hidden(parent / name, passed)]
    return sorted(found)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    def stop(error: OSError) -> None:
        raise _unreadable_folder(error) from error

    for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        yield Path(parent), folders, names


def _unreadable_folder(error: OSError) -> DataError:
    return DataError(
        f"data: must be a readable folder; got {error.filename} ({error.strerror}). Check its permissions."
    )
