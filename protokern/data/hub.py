"""Data sets in the format of Hugging Face `datasets`: by name, or a folder that `save_to_disk` wrote.

Rows are memory-mapped, so any image can be read at any time. Code of a data set is not run.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from protokern.data.account import PassedOver
from protokern.data.dataset import Sample
from protokern.data.names import SPLIT_NAMES, split_of
from protokern.data.packed import PackedSource, PackedSplit
from protokern.errors import DataError, MissingPackageError, import_optional

_OLDEST = 4  # earlier versions run a data set's code if a prompt or the environment allows it


class _Rows:
    """The images of one split of the data set `source`."""

    def __init__(self, package: Any, rows: Any, source: str) -> None:
        column, label = _columns(package, rows, source)
        # Bytes, not decoded: images from strangers are decoded with the limits of this package.
        self._rows = rows.cast_column(column, package.Image(decode=False))
        self._column = column
        labels = list(rows[label])
        if None in labels:
            raise DataError(
                f"data: must have a class label in every row; huggingface:{source} has none in row "
                f"{labels.index(None)}. Remove such rows, save the data set with save_to_disk, and give that folder."
            )
        self.samples: list[Sample] = [(Path(str(row)), value) for row, value in enumerate(labels)]
        self.classes: list[str] = list(rows.features[label].names)
        self.origin = f"rows of {rows._fingerprint}"  # their names are numbers, like those of other data sets

    def read(self, name: Path, at_most: int) -> bytes:
        """The bytes of an image."""
        cell = self._rows[int(name.name)][self._column] or {"bytes": None, "path": None}
        content = cell["bytes"]
        size = _size_of_file(cell["path"], name) if content is None else len(content)
        if size > at_most:
            raise DataError(f"data: must hold images of at most {at_most} bytes; row {name} has {size}.")
        if content is not None:
            return bytes(content)
        try:
            with open(cell["path"], "rb") as file:
                return file.read(at_most)
        except OSError as error:
            raise _no_image(name) from error


def _size_of_file(path: str | None, row: Path) -> int:
    """Size of a plain file; reading anything else might never end."""
    try:
        status = None if path is None else Path(path).stat()
    except OSError as error:
        raise _no_image(row) from error
    if status is None or not stat.S_ISREG(status.st_mode):
        raise _no_image(row)
    return status.st_size


def _no_image(row: Path) -> DataError:
    return DataError(f"data: row {row} must hold an image or the path of one; it cannot be read.")


def open_hub(name: str) -> PackedSource:
    """Open a data set with one column of images and one of class labels.

    A test split without labels (-1) counts as missing; then the validation split is the test split, and validation
    images are held out of the training ones.

    Raises:
        DataError: it is unavailable or unusable.
        MissingPackageError: `datasets` is not installed, or too old.
    """
    package: Any = import_optional(
        "datasets",
        package="datasets",
        needed_for=f"data.path = 'huggingface:{name}'",
        install="'protokern[huggingface]'",
    )
    if int(package.__version__.partition(".")[0]) < _OLDEST:
        raise MissingPackageError(
            f"data: huggingface: needs datasets {_OLDEST} or newer, which runs no code of a data set; got "
            f"{package.__version__}. Install it: pip install -U 'protokern[huggingface]'."
        )
    try:
        loaded = package.load_from_disk(name) if Path(name).is_dir() else package.load_dataset(name)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError) as error:  # a file of the folder may be broken
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"data: huggingface:{name} is not available ({reason}). Check the name and the network, or give a folder "
            "that save_to_disk wrote."
        ) from error
    if not isinstance(loaded, dict):
        raise DataError(
            f"data: must have splits, as a DatasetDict does; huggingface:{name} is one {type(loaded).__name__}. "
            "Save a DatasetDict of train and test."
        )
    passed = PassedOver()
    found = {}
    classes: list[str] = []
    called = _splits_by_name(loaded, name, passed)
    for split, one in called.items():
        rows = _Rows(package, loaded[one], name)
        found[split] = PackedSplit(rows.samples, rows.read, _no_file, rows.origin)
        classes = classes or rows.classes
        if rows.classes != classes:
            raise DataError(
                f"data: must have the same class labels, in one order, in all splits; huggingface:{name} has "
                f"others in {one}. Cast the column, save the data set with save_to_disk, and give that folder."
            )
    if "test" not in found or any(label < 0 for _, label in found["test"].samples):
        unlabelled = found.pop("test", None)
        if unlabelled is not None:
            passed.add("without labels", called["test"], len(unlabelled.samples))
        if "val" in found:
            found["test"] = found.pop("val")
    advice = "Name splits train and test, save the data set with save_to_disk, and give that folder."
    source = f"huggingface:{name}"
    return PackedSource(source, found, classes, advice, f"rows of {source}", passed)


def _splits_by_name(loaded: Any, name: str, passed: PassedOver) -> dict[str, str]:
    """The name of each split; `passed` gets the rows of other splits."""
    called: dict[str, str] = {}
    for one, rows in loaded.items():
        split = split_of(one)
        if split is None:
            passed.add("in splits that are not read", one, rows.num_rows)
        elif split in called:
            raise DataError(
                f"data: must have one split of each kind; huggingface:{name} has {called[split]} and {one}, which mean "
                "the same. Put them together, save the data set with save_to_disk, and give that folder."
            )
        else:
            called[split] = one
    return {split: called[split] for split in SPLIT_NAMES if split in called}


def _no_file(name: Path) -> None:
    """Rows are in files of the cache of `datasets`."""


def _columns(package: Any, rows: Any, name: str) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    images = [column for column, kind in rows.features.items() if isinstance(kind, package.Image)]
    labels = [column for column, kind in rows.features.items() if isinstance(kind, package.ClassLabel)]
    several = [column for column, kind in rows.features.items() if _is_list_of_labels(kind, package)]
    if several and not labels:
        raise DataError(
            f"data: must have one class label in a row; huggingface:{name} has a list of them in {several[0]} "
            "(multi-label), which cannot be learnt. Make a column of one label, save the data set with save_to_disk, "
            "and give that folder."
        )
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"data: must have one column of images and one of class labels; huggingface:{name} has "
            f"{', '.join(images) or 'none'} and {', '.join(labels) or 'none'}. Remove or cast columns, save the data "
            "set with save_to_disk, and give that folder."
        )
    return images[0], labels[0]


def _is_list_of_labels(kind: Any, package: Any) -> bool:
    inner = kind[0] if isinstance(kind, list) and kind else getattr(kind, "feature", None)
    return isinstance(inner, package.ClassLabel)
