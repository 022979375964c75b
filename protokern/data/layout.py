"""The layout of a data folder: its splits, its classes and their files, in all usual arrangements and names.

An unusable folder is refused, with advice. Files are opened only to say what they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from protokern.data.account import HIDDEN, PassedOver, counted, listed
from protokern.data.class_names import check_distinct, class_indices, composed
from protokern.data.links import check_links
from protokern.data.names import SPLIT_NAMES, is_ignored, name_pairs_alike, pairs_within, similar_split, split_of
from protokern.data.published import PublishedLayout, find_layout
from protokern.data.signatures import HEAD_BYTES, describe_content
from protokern.errors import DataError

if TYPE_CHECKING:
    from protokern.data.dataset import Sample

ALL = "all"
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".xls", ".parquet", ".yaml", ".yml")
# Folders of data sets arranged by kind of file, not by class.
_NO_CLASSES = ("image", "images", "img", "imgs", "label", "labels", "mask", "masks", "annotations")


@dataclass(frozen=True, slots=True)
class Found:
    """What a data folder holds.

    Attributes:
        folders: the folders of the splits, by split; empty for a folder of class folders alone, and for a published
            data set.
        samples: files and class indices by split; "all" if there are no splits.
        classes: class names.
        notes: lines for the log.
        origin: the file that says what is in a split, if the folders do not.
    """

    folders: dict[str, Path]
    samples: dict[str, list[Sample]]
    classes: list[str]
    notes: list[str]
    origin: dict[str, str] = field(default_factory=dict)


def find_images(root: Path, passed: PassedOver) -> Found:
    """Find the splits, the classes and their files; `passed` gets what does not count.

    Raises:
        DataError: the folder is unusable.
    """
    published = find_layout(root)
    if published is not None:
        return _find_published(root, published, passed)
    folders = _split_folders(root)
    if folders:
        _check_for_table(root, folders["train"])
        scanned = {name: _find_samples(folder, passed) for name, folder in folders.items()}
        classes = scanned["train"][1]
        for name, (_, split_classes) in scanned.items():
            _check_same_classes(classes, split_classes, folders[name])
        found = {}
        for name, (split_samples, split_classes) in scanned.items():
            index = class_indices(classes, split_classes)
            found[name] = [(path, index[label]) for path, label in split_samples]
        _pass_beside(root, list(folders.values()), passed)
    else:
        _check_classes_of(root)
        _pass_beside(root, [entry for entry in sorted(root.iterdir()) if entry.is_dir()], passed)
        found = {}
        found[ALL], classes = _find_samples(root, passed, has_files=True)
    samples, notes = check_links(root, found, classes, passed)
    similar = pairs_within(classes)
    if similar:
        notes.append(f"class names that look alike: {similar}; if they are one class, put their images together")
    return Found(folders, samples, classes, notes)


def _find_published(root: Path, layout: PublishedLayout, passed: PassedOver) -> Found:
    """The images that a published data set lists, in its own split."""
    listing = layout.list_images(root)
    if len(listing.classes) < 2:
        raise DataError(
            f"data: must list images of at least two classes in the files of {layout.name}; got {len(listing.classes)} "
            f"in {root}. Restore the files."
        )
    check_distinct(listing.classes, root)
    listed_files = {path for some in listing.samples.values() for path, _ in some}
    for parent, _, names in os.walk(root):
        for name in names:
            if Path(parent, name) not in listed_files:
                passed.add("not in the lists of images", Path(parent, name).relative_to(root).as_posix())
    samples, notes = check_links(root, listing.samples, listing.classes, passed)
    note = f"{layout.name}, in its published layout and split"
    return Found({}, samples, listing.classes, [note, *notes], listing.origin)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits; empty if the folder has only class folders.

    Raises:
        DataError: no such folder, two folders for one split, or a split is missing.
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
    table = _tables_message(root)
    if table is not None and len(inside) < 2:
        return table
    found = f"the folders {', '.join(inside[:10])}" if inside else "no folder"
    advice = "Sort the images into these folders."
    if len(inside) == 1 and any(split_of(entry.name) for entry in (root / inside[0]).iterdir() if entry.is_dir()):
        advice = f"Give {root / inside[0]}."
    if len(inside) == 1 and (layout := find_layout(root / inside[0])) is not None:
        advice = f"Give {root / inside[0]}, which is {layout.name}."
    return (
        f"data: must hold train/ and test/ (val/ if you like), each with one folder a class, or one folder for each of "
        f"two or more classes; got {found} in {root}, without {' and '.join(lacking)}. {advice}"
    )


def _check_similar(root: Path, missing: Sequence[str], others: Sequence[str]) -> None:
    """Refuse a folder that is most likely a missing split under a misspelt name."""
    for name in others:
        meant = similar_split(name, missing)
        if meant is not None:
            raise DataError(
                f"data: must have folders called train, val and test; got {name!r} in {root}, which looks like "
                f"{meant!r}, and no {meant}/. Rename it, or move it away."
            )


def _holds_folders(entry: Path, among: Sequence[Path]) -> bool:
    """Whether a folder is a split by its content too: among class folders, train/ may be a class of trains."""
    if any(child.is_dir() and not is_ignored(child.name) for child in entry.iterdir()):
        return True
    return not any(split_of(other.name) is None for other in among)


def _check_classes_of(root: Path) -> None:
    """Refuse folders that are not classes: several data sets, or a data set with a table of labels."""
    inside = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not is_ignored(entry.name)]
    for entry in inside:
        layout = find_layout(entry)
        if layout is not None:
            raise DataError(
                f"data: must be one data folder; got {root}, in which {entry.name}/ is {layout.name}. Give {entry}."
            )
        splits = [child.name for child in sorted(entry.iterdir()) if child.is_dir() and split_of(child.name)]
        if len({split_of(name) for name in splits}) > 1:
            raise DataError(
                f"data: must be one data folder; got {root}, in which {entry.name}/ holds {listed(splits)}. "
                f"Give {entry}."
            )
    if sum(_num_files(entry) > 0 for entry in inside) < 2:
        table = _tables_message(root)
        if table is not None:
            raise DataError(table)


def _check_for_table(root: Path, train: Path) -> None:
    """Refuse images without class folders if there is a table of labels beside train/."""
    table = _tables_message(root)
    if table is not None and not any(entry.is_dir() and not is_ignored(entry.name) for entry in train.iterdir()):
        raise DataError(table)


def _kind_of(path: Path) -> str:
    """What a file is, if that helps: usually an archive."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return ""
    said = describe_content(head, len(head)).removeprefix("not an image: ") if head else ""
    return f" ({said})" if "archive" in said else ""


def _find_samples(split: Path, passed: PassedOver, *, has_files: bool = False) -> tuple[list[Sample], list[str]]:
    """List the files of one folder of class folders.

    Files in sub-folders of a class belong to the class. Hidden names, Thumbs.db and desktop.ini are skipped.

    Args:
        split: the folder.
        passed: gets what does not count.
        has_files: whether files beside the class folders are allowed, because the caller has counted them.

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


def no_images_message(split: Path, classes: Sequence[str]) -> str:
    return (
        f"data: must hold at least one image in each class folder of {split}; got none in {listed(classes)}. "
        "Add images or remove the folder from every split."
    )


def _check_same_classes(train: Sequence[str], other: Sequence[str], split: Path) -> None:
    """Raise a DataError unless both splits have the same class folders, except for the form of accents."""
    of_train, of_other = ({composed(name) for name in names} for names in (train, other))
    missing = [name for name in train if composed(name) not in of_other]
    extra = [name for name in other if composed(name) not in of_train]
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


def _pass_beside(root: Path, taken: Sequence[Path], passed: PassedOver) -> None:
    """Count what is in the data folder beside the folders `taken`."""
    for entry in _listing(root):
        if _pass_hidden(entry, passed) or entry in taken:
            continue
        if entry.is_dir():
            passed.add("in folders that are not a split", f"{entry.name}/", _num_files(entry))
        else:
            passed.add("beside the folders", entry.name)


def _tables_message(root: Path) -> str | None:
    """The error for a folder with a table of labels and no class folders; None if it has no table."""
    tables = [entry.name for entry in _listing(root) if entry.is_file() and entry.suffix.lower() in _TABLES]
    if not tables:
        return None
    return f"data: must have one folder for each class; got {listed(tables)} in {root}. {_advice_on_tables(tables)}"


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
    """Whether an entry is hidden; if so, it is counted."""
    if not is_ignored(entry.name):
        return False
    is_folder = entry.is_dir() and not entry.is_symlink()
    passed.add(HIDDEN, f"{entry.name}/" if is_folder else entry.name, _num_files(entry) if is_folder else 1)
    return True


def _num_files(folder: Path) -> int:
    """Number of files at any depth, without following links to folders."""
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
