"""Stanford Cars: with its devkit of MATLAB files, in either arrangement, or with the tables that circulate with it.

Source: Krause et al. 2013, 3D Object Representations for Fine-Grained Categorization, and the README of the devkit. It
does not say where a pixel begins: MATLAB counts pixels from 1, so a box from 1 to 10 has ten of them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from protokern.data.marks import Annotated, Mark, line_error
from protokern.data.published.layout import (
    Listing,
    PublishedLayout,
    by_image,
    image_below,
    listing,
    numbers_of,
    read_text,
)
from protokern.errors import DataError

_SPLITS = ("train", "test")
_LABEL = "car"
_DEVKITS = ("devkit", "car_devkit/devkit")
_TRAIN, _TEST, _META = "cars_train_annos.mat", "cars_test_annos_withlabels.mat", "cars_meta.mat"
_SIDES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
_ALL, _TABLE = "cars_annos.mat", "anno_{}.csv"
_DATA = ("car_data/car_data", "car_data", "")  # where the class folders of the tables are


def _list_devkit(root: Path) -> Listing:
    names = _class_names(_in_devkit(root, _META))
    samples = {split: [(path, number) for _, path, number, _ in _devkit_rows(root, split)] for split in _SPLITS}
    return listing(samples, names, {"train": _TRAIN, "test": _TEST})


def _devkit_rows(root: Path, split: str) -> Iterator[tuple[int, Path, int, list[float]]]:
    """Entry, image, class and sides of the box for every image of a split."""
    file = _in_devkit(root, _TRAIN if split == "train" else _TEST)
    folder = root / f"cars_{split}"
    inner = folder / folder.name  # as some archives have it
    folder = inner if inner.is_dir() else folder
    for entry, row in _entries(file, ("fname", "class", *_SIDES)):
        path = image_below(folder, str(row["fname"]), file, entry)
        (number,), sides = _numbers(file, entry, row, "class"), _numbers(file, entry, row, *_SIDES)
        yield entry, path, int(number), sides


def _in_devkit(root: Path, name: str) -> Path:
    places = [root / folder / name for folder in (*_DEVKITS, "")]
    for place in places:
        if place.is_file():
            return place
    raise DataError(
        f"data: must have {name} of Stanford Cars in {places[0].parent} or {root}; it is not there. Put it there: the "
        "classes of the images are in it."
    )


def _list_one_table(root: Path) -> Listing:
    samples: dict[str, list[tuple[Path, int]]] = {split: [] for split in _SPLITS}
    for _, path, number, is_test, _ in _one_table_rows(root):
        samples["test" if is_test else "train"].append((path, number))
    return listing(samples, _class_names(root / _ALL), dict.fromkeys(_SPLITS, _ALL))


def _one_table_rows(root: Path) -> Iterator[tuple[int, Path, int, bool, list[float]]]:
    file = root / _ALL
    for entry, row in _entries(file, ("relative_im_path", "class", "test", *_SIDES)):
        path = image_below(root, str(row["relative_im_path"]), file, entry)
        number, is_test = _numbers(file, entry, row, "class", "test")
        yield entry, path, int(number), bool(is_test), _numbers(file, entry, row, *_SIDES)


def _list_tables(root: Path) -> Listing:
    """Classes are folders there, so they have the names of the folders, as without the tables."""
    found = {split: [path for _, path, _ in _table_rows(root, split)] for split in _SPLITS}
    names = sorted({path.parent.name for some in found.values() for path in some})
    index = {name: number for number, name in enumerate(names)}
    samples = {split: [(path, index[path.parent.name]) for path in some] for split, some in found.items()}
    return listing(samples, dict(enumerate(names)), {split: _TABLE.format(split) for split in _SPLITS})


def _table_rows(root: Path, split: str) -> Iterator[tuple[int, Path, list[float]]]:
    """Line, image and sides of the box for every image of a split: name, x1, y1, x2, y2, class; no heading."""
    file = root / _TABLE.format(split)
    folder = next((root / place / split for place in _DATA if (root / place / split).is_dir()), root / split)
    paths = {path.name: path for path in sorted(folder.glob("*/*"))}
    for line, text in enumerate(read_text(file).splitlines(), start=1):
        row = next(csv.reader([text]), [])
        if not row:
            continue
        if len(row) != 6:
            raise line_error(file, line, f"must have a name, four sides and a class; got {text!r}")
        if row[0] not in paths:
            raise line_error(file, line, f"must name an image in a class folder of {folder}; got {row[0]!r}")
        yield line, paths[row[0]], numbers_of(file, line, row[1:5])


def _annotated(root: Path, name: str, rows: Iterator[tuple[Path, int, Path, list[float]]]) -> Annotated:
    names = {"boxes": name, "parts": "parts.csv", "masks": "masks/"}
    return Annotated(boxes=by_image(_mark(root, *row) for row in rows), names=names)


def _mark(root: Path, file: Path, line: int, path: Path, sides: list[float]) -> Mark:
    x0, y0, x1, y1 = sides
    if not (x0 <= x1 and y0 <= y1):
        raise line_error(file, line, f"must have a box whose second corner is below and right; got {sides}")
    return Mark(file, line, path.relative_to(root).as_posix(), _LABEL, (x0 - 1, y0 - 1, x1, y1))


def _annotate_devkit(root: Path) -> Annotated:
    files = {"train": _in_devkit(root, _TRAIN), "test": _in_devkit(root, _TEST)}
    rows = (
        (files[split], entry, path, sides) for split in _SPLITS for entry, path, _, sides in _devkit_rows(root, split)
    )
    return _annotated(root, _TRAIN, rows)


def _annotate_one_table(root: Path) -> Annotated:
    return _annotated(
        root, _ALL, ((root / _ALL, entry, path, sides) for entry, path, _, _, sides in _one_table_rows(root))
    )


def _annotate_tables(root: Path) -> Annotated:
    rows = (
        (root / _TABLE.format(split), line, path, sides)
        for split in _SPLITS
        for line, path, sides in _table_rows(root, split)
    )
    return _annotated(root, _TABLE.format("train"), rows)


def _load(file: Path, name: str) -> Any:
    """A variable of a MATLAB file."""
    from scipy.io import loadmat  # takes long to import
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(file, squeeze_me=True)[name]
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, MatReadError) as error:
        raise DataError(
            f"{file}: must be a MATLAB file of version 5 with {name!r}; it cannot be read ({error}). Fetch it again."
        ) from error


def _class_names(file: Path) -> dict[int, str]:
    names = np.atleast_1d(_load(file, "class_names")).tolist()
    return {number: str(name) for number, name in enumerate(names, start=1)}


def _entries(file: Path, fields: tuple[str, ...]) -> Iterator[tuple[int, np.void]]:
    entries = np.atleast_1d(_load(file, "annotations"))
    missing = [name for name in fields if name not in (entries.dtype.names or ())]
    if missing:
        raise DataError(
            f"{file}: must have the fields {', '.join(fields)}; {', '.join(missing)} is not there. Fetch it again."
        )
    yield from enumerate(entries, start=1)


def _numbers(file: Path, entry: int, row: np.void, *fields: str) -> list[float]:
    try:
        return [float(row[field]) for field in fields]
    except (TypeError, ValueError):
        got = ", ".join(str(row[field]) for field in fields)
        raise line_error(file, entry, f"must have numbers in {', '.join(fields)}; got {got}") from None


_NAME = "Stanford Cars"
LAYOUTS = (
    PublishedLayout(_NAME, ("cars_train", "cars_test"), _list_devkit, _annotate_devkit),
    PublishedLayout(_NAME, (_ALL, "car_ims"), _list_one_table, _annotate_one_table),
    PublishedLayout(_NAME, (*(_TABLE.format(split) for split in _SPLITS), "names.csv"), _list_tables, _annotate_tables),
)
