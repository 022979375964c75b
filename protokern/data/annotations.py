"""Annotations of the images of a folder: `parts.csv`, `boxes.csv` and `masks/` beside its splits, or as published.

Coordinates are pixels of the file as it is stored. They are turned with the image by its EXIF orientation, and returned
as shares of the upright image, which resizing does not change. So they mark exactly what the net sees. Errors name the
file and the line.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from protokern.data.class_names import composed
from protokern.data.dataset import ImageDataset
from protokern.data.marks import Annotated, Mark, MarksOfImages, line_error
from protokern.data.masks import FOLDER, find_masks, read_mask
from protokern.data.orientation import upright_points, upright_size
from protokern.data.published import find_layout
from protokern.data.regions import BoxRegion, MaskRegion, PartPoint, Region
from protokern.errors import DataError

PARTS, BOXES = "parts.csv", "boxes.csv"
_PART_COLUMNS = ("path", "part", "x", "y")
_BOX_COLUMNS = ("path", "label", "xmin", "ymin", "xmax", "ymax")
_SLACK = 1.0  # pixels: coordinates of a resized image are rounded differently from its sides


@dataclass(frozen=True, slots=True)
class _Frame:
    """How an image is stored: (Y, X) pixels, and its EXIF orientation."""

    size: tuple[int, int]
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        return upright_size(self.size, self.orientation)

    def turn(self, xy: Sequence[tuple[float, float]]) -> np.ndarray:
        """Stored (x, y) pixels as upright (y, x) pixels, (N, 2), clipped to the image."""
        points = np.array([(y, x) for x, y in xy], dtype=np.float64).clip(0, self.size)
        return upright_points(points, self.size, self.orientation)


class FolderAnnotations:
    """Boxes, masks and parts of the images of one data set; see `open_annotations`.

    Attributes:
        found: which files there are: "boxes.csv", "masks/" and "parts.csv", or those of a published data set.
        names: what these files are called, by "boxes", "masks" and "parts", also where there are none.
        has_boxes, has_masks, has_parts: which of them there are.
    """

    def __init__(self, images: ImageDataset, annotated: Annotated) -> None:
        self._images = images
        self._boxes, self._parts = annotated.boxes or {}, annotated.parts or {}
        self._masks = annotated.masks
        self._frames: dict[int, _Frame] = {}
        self.names = dict(annotated.names)
        self.has_boxes, self.has_parts = annotated.boxes is not None, annotated.parts is not None
        self.has_masks = annotated.masks is not None
        there = {"boxes": self.has_boxes, "masks": self.has_masks, "parts": self.has_parts}
        self.found = tuple(annotated.names[kind] for kind, is_there in there.items() if is_there)

    def regions(self, index: int) -> dict[str, Region]:
        """Where the object of image `index` is: "mask", and "box LABEL" for each label of its boxes; empty: unknown.

        A mask marks the object and its border.

        Raises:
            DataError: the mask cannot be read, or has other values than it may have.
        """
        key = _key(self._images.sample_name(index))
        found: dict[str, Region] = {}
        if self._masks is not None and key in self._masks.of:
            frame, masks = self._frame(index), self._masks
            found["mask"] = MaskRegion(read_mask(masks.of[key], frame.size, frame.orientation, masks.code))
        by_label: dict[str, list[tuple[float, float, float, float]]] = {}
        for mark in self._boxes.get(key, ()):
            x0, y0, x1, y1 = mark.values
            corners = self._frame(index).turn([(x0, y0), (x1, y1)])
            (top, left), (bottom, right) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
            by_label.setdefault(mark.name, []).append((top, left, bottom, right))
        for label, boxes in by_label.items():
            found[f"box {label}"] = BoxRegion(self._frame(index).upright, tuple(boxes))
        return found

    def parts(self, index: int) -> tuple[PartPoint, ...]:
        """The visible parts of image `index`, in the order of the table."""
        marks = self._parts.get(_key(self._images.sample_name(index)), ())
        if not marks:
            return ()
        frame = self._frame(index)
        rows, columns = frame.upright
        points = frame.turn([(mark.values[0], mark.values[1]) for mark in marks]).tolist()
        return tuple(PartPoint(mark.name, y / rows, x / columns) for mark, (y, x) in zip(marks, points, strict=True))

    def counts(self) -> dict[str, int]:
        """How many images of the data set have "boxes", "masks" and "parts"."""
        keys = [_key(self._images.sample_name(index)) for index in range(len(self._images))]
        of_kind = {"boxes": self._boxes, "masks": {} if self._masks is None else self._masks.of, "parts": self._parts}
        return {kind: sum(key in known for key in keys) for kind, known in of_kind.items()}

    def check(self) -> None:
        """Raise a DataError for the first line whose coordinates are outside its image."""
        outside: dict[Path, list[tuple[int, str]]] = {}
        for index in range(len(self._images)):
            key = _key(self._images.sample_name(index))
            for mark in (*self._boxes.get(key, ()), *self._parts.get(key, ())):
                text = self._say_outside(mark, index)
                if text is not None:
                    outside.setdefault(mark.file, []).append((mark.line, text))
        for table, problems in outside.items():
            _raise_first(table, sorted(problems))

    def _say_outside(self, mark: Mark, index: int) -> str | None:
        frame = self._frame(index)
        rows, columns = frame.size
        xs, ys = mark.values[0::2], mark.values[1::2]
        if all(-_SLACK <= x <= columns + _SLACK for x in xs) and all(-_SLACK <= y <= rows + _SLACK for y in ys):
            return None
        turned = "" if frame.orientation == 1 else "; its EXIF orientation turns it only afterwards"
        got = ", ".join(f"{value:g}" for value in mark.values)
        return f"must lie in {mark.path}, which is stored with {columns} x {rows} pixels{turned}; got {got}"

    def _frame(self, index: int) -> _Frame:
        if index not in self._frames:
            header = self._images.header(index)
            if header is None:
                raise DataError(f"{self._images.sample_name(index)}: must be an image that can be read; it is not.")
            self._frames[index] = _Frame((header.height, header.width), self._images.orientation(index))
        return self._frames[index]


def open_annotations(folder: Path, images: ImageDataset, others: Sequence[ImageDataset] = ()) -> FolderAnnotations:
    """Read the annotations of a data folder, and check all of them.

    Args:
        folder: the data folder, which may have `boxes.csv` (path, label, xmin, ymin, xmax, ymax), `parts.csv` (path,
            part, x, y) and `masks/`, with the path of each image and the suffix .png; paths are those of `sample_name`.
            More columns are allowed. Missing files are not in `found`. Of a published data set
            (`protokern.data.published`) its own files are read, unless one of these takes their place.
        images: the data set whose annotations are wanted, by index.
        others: the other data sets of the folder, whose images the tables may also name.

    Raises:
        DataError: a table lacks a column, has a line that cannot be parsed, names something that is not an image of the
            folder, or marks a place outside an image of `images`; or a mask has no image. The message has the file and
            the line.
    """
    known = {_key(one.sample_name(index)) for one in (images, *others) for index in range(len(one))}
    is_image = partial(_is_image, folder, known)
    own = Annotated(
        boxes=_read_table(folder / BOXES, _BOX_COLUMNS, "label", is_image),
        parts=_read_table(folder / PARTS, _PART_COLUMNS, "part", is_image),
        masks=find_masks(folder, known),
        names={"boxes": BOXES, "parts": PARTS, "masks": f"{FOLDER}/"},
    )
    layout = find_layout(folder)
    read = FolderAnnotations(images, own if layout is None else _beside(own, layout.read_annotations(folder)))
    read.check()
    return read


def _beside(own: Annotated, published: Annotated) -> Annotated:
    """The annotations of a published data set, with those that lie beside them in their place."""
    names = {**published.names, **{kind: name for kind, name in own.names.items() if getattr(own, kind) is not None}}
    return replace(
        published,
        boxes=published.boxes if own.boxes is None else own.boxes,
        parts=published.parts if own.parts is None else own.parts,
        masks=published.masks if own.masks is None else own.masks,
        names=names,
    )


def _key(path: str) -> str:
    return composed(path)


def _is_image(folder: Path, known: set[str], path: str) -> bool:
    """Whether a path is an image of the data, or a file of the folder that the data leave out."""
    is_below = not Path(path).is_absolute() and ".." not in Path(path).parts
    return _key(path) in known or (is_below and (folder / path).is_file())


def _read_table(path: Path, columns: Sequence[str], name: str, is_image: Callable[[str], bool]) -> MarksOfImages | None:
    """The lines of a table by image; None if there is no table."""
    if not path.is_file():
        return None
    marks: dict[str, list[Mark]] = {}
    problems: list[tuple[int, str]] = []
    try:
        for line, row in _rows(path, columns):
            mark = _parse(path, line, row, columns, name)
            if isinstance(mark, str):
                problems.append((line, mark))
            elif not is_image(mark.path):
                problems.append((line, f"path must be an image below {path.parent}; got {mark.path!r}"))
            else:
                marks.setdefault(_key(mark.path), []).append(mark)
    except (csv.Error, OSError) as error:
        raise DataError(f"{path}: must be a table of comma-separated values; it cannot be read ({error}).") from error
    _raise_first(path, problems)
    return marks


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table with their numbers; missing and surplus cells have the name ""."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, restkey="", restval=None)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"{path}, line 1: must name the columns {', '.join(columns)}; {', '.join(missing)} is not there. "
                "Write the names of the columns into the first line."
            )
        for row in reader:
            is_whole = "" not in row and None not in row.values()
            yield reader.line_num, row if is_whole else {}


def _parse(file: Path, line: int, row: Mapping[str, str], columns: Sequence[str], name: str) -> Mark | str:
    """A line of a table, or the error in it."""
    if not row:
        return "must have as many values as the first line has names; got another number of them"
    numbers = [column for column in columns if column not in ("path", name)]
    values = []
    for column in numbers:
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            return f"{column} must be a number of pixels; got {row[column]!r}"
        values.append(value)
    if len(values) == 4 and not (values[0] < values[2] and values[1] < values[3]):
        return f"xmin and ymin must be smaller than xmax and ymax; got {', '.join(f'{one:g}' for one in values)}"
    if not row[name].strip():
        return f"{name} must be a name; got nothing"
    return Mark(file, line, row["path"], row[name].strip(), tuple(values))


def _raise_first(path: Path, problems: Sequence[tuple[int, str]]) -> None:
    if not problems:
        return
    line, problem = problems[0]
    raise line_error(path, line, problem, more=len(problems) - 1)
