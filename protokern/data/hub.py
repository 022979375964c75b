"""Data sets in the format of Hugging Face `datasets`: by name, or a folder that `save_to_disk` wrote.

Rows are memory-mapped, so any image can be read at any time. Code that comes with a data set is not run.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from protokern.data.packed import PackedSource, PackedSplit, Sample
from protokern.errors import DataError, MissingPackageError

# What the splits are called there.
_NAMES = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}


class _Rows:
    """The images of one split."""

    def __init__(self, package: Any, rows: Any, column: str, label: str) -> None:
        # Bytes, not decoded: images of strangers are decoded with the limits of this package.
        self._rows = rows.cast_column(column, package.Image(decode=False))
        self._column = column
        self.samples: list[Sample] = [(Path(str(row)), int(value)) for row, value in enumerate(rows[label])]

    def read(self, name: Path, at_most: int) -> bytes:
        """The bytes of an image."""
        content = self._content(name)
        if len(content) > at_most:
            raise DataError(f"data: must hold images of at most {at_most} bytes; row {name} has {len(content)}.")
        return content

    def _content(self, name: Path) -> bytes:
        cell = self._rows[int(name.name)][self._column]
        if cell["bytes"] is not None:
            content: bytes = cell["bytes"]
            return content
        try:
            return Path(cell["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise DataError(f"data: row {name} must hold an image or the path of one; it cannot be read.") from error


def open_hub(name: str) -> PackedSource:
    """Open a data set with one column of images and one of class labels.

    A test split without labels (-1) counts as missing; then the validation split is the test split, and validation
    images are held out of the training ones.

    Raises:
        DataError: it cannot be had, or not be used as it is.
        MissingPackageError: `datasets` is not installed.
    """
    try:
        package = import_module("datasets")
    except ImportError as error:
        raise MissingPackageError(
            "data: huggingface: needs the package datasets. Install it: pip install 'protokern[huggingface]'."
        ) from error
    try:
        loaded = package.load_from_disk(name) if Path(name).is_dir() else package.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"data: huggingface:{name} cannot be had ({str(error).partition(chr(10))[0]}).") from error
    found = {}
    classes: list[str] = []
    for split, names in _NAMES.items():
        for one in names:
            if one in loaded:
                column, label = _columns(package, loaded[one], name)
                rows = _Rows(package, loaded[one], column, label)
                found[split] = PackedSplit(rows.samples, rows.read, _no_file)
                classes = classes or list(loaded[one].features[label].names)
    if "test" not in found or any(label < 0 for _, label in found["test"].samples):
        found.pop("test", None)
        if "val" in found:
            found["test"] = found.pop("val")
    return PackedSource(f"huggingface:{name}", found, classes)


def _no_file(name: Path) -> None:
    """Rows are in files of the package's own cache."""


def _columns(package: Any, rows: Any, name: str) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    images = [column for column, kind in rows.features.items() if isinstance(kind, package.Image)]
    labels = [column for column, kind in rows.features.items() if isinstance(kind, package.ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"data: must have one column of images and one of class labels; huggingface:{name} has "
            f"{', '.join(images) or 'none'} and {', '.join(labels) or 'none'}. Remove or cast columns, save the data "
            "set with save_to_disk, and give that folder."
        )
    return images[0], labels[0]
