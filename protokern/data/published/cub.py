"""CUB-200-2011: lists of numbered images, boxes and parts as text, masks in `segmentations/`.

Source: Wah et al. 2011, The Caltech-UCSD Birds-200-2011 Dataset, and the README in it. It does not say where a pixel
begins: coordinates are taken as distances from the left and the upper edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from protokern.data.class_names import composed
from protokern.data.marks import Annotated, Mark, line_error
from protokern.data.masks import GREY_LEVELS, MaskFiles
from protokern.data.published.layout import (
    Listing,
    PublishedLayout,
    by_image,
    image_below,
    listing,
    numbers_of,
    read_lines,
)
from protokern.errors import DataError

_IMAGES, _LABELS, _SPLIT, _CLASSES = "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"
_BOXES, _PARTS, _NAMES, _MASKS = "bounding_boxes.txt", "parts/part_locs.txt", "parts/parts.txt", "segmentations"
_LABEL = "bird"


def _list_images(root: Path) -> Listing:
    labels, splits = _by_number(root / _LABELS), _by_number(root / _SPLIT)
    samples: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    names: dict[int, str] = {}
    for line, (number, name) in read_lines(root / _IMAGES, 2):
        for file, table in ((_LABELS, labels), (_SPLIT, splits)):
            if number not in table:
                raise line_error(root / _IMAGES, line, f"must name an image of {file}; got the number {number}")
        path = image_below(root / "images", name, root / _IMAGES, line)
        if splits[number] not in (0, 1):
            raise DataError(f"{root / _SPLIT}: must have 1 (training) or 0 (test) for {name}; got {splits[number]}.")
        samples["train" if splits[number] == 1 else "test"].append((path, labels[number]))
        names.setdefault(labels[number], path.parent.name)
    if (root / _CLASSES).is_file():
        names |= _class_names(root / _CLASSES)
    return listing(samples, names, dict.fromkeys(("train", "test"), _SPLIT))


def _read_annotations(root: Path) -> Annotated:
    images = {number: f"images/{name}" for number, name in _numbered(root / _IMAGES)}
    names = {"boxes": _BOXES, "parts": _PARTS, "masks": f"{_MASKS}/"}
    masks = None
    if (root / _MASKS).is_dir():
        files = {
            image: (root / _MASKS / image.removeprefix("images/")).with_suffix(".png") for image in images.values()
        }
        masks = MaskFiles({composed(image): mask for image, mask in files.items() if mask.is_file()}, GREY_LEVELS)
    return Annotated(
        boxes=by_image(_boxes(root / _BOXES, images)) if (root / _BOXES).is_file() else None,
        parts=by_image(_parts(root, images)) if (root / _PARTS).is_file() else None,
        masks=masks,
        names=names,
    )


def _boxes(file: Path, images: dict[str, str]) -> Iterator[Mark]:
    for line, values in read_lines(file, 5):
        x, y, width, height = numbers_of(file, line, values[1:])
        if not (width > 0 and height > 0):
            raise line_error(file, line, f"must have a width and a height above 0; got {width:g} and {height:g}")
        yield Mark(file, line, _image(file, line, values[0], images), _LABEL, (x, y, x + width, y + height))


def _parts(root: Path, images: dict[str, str]) -> Iterator[Mark]:
    file = root / _PARTS
    parts = dict(_numbered(root / _NAMES))
    for line, (number, part, *rest) in read_lines(file, 5):
        x, y, is_visible = numbers_of(file, line, rest)
        if part not in parts:
            raise line_error(file, line, f"must have the number of a part of {root / _NAMES}; got {part}")
        image = _image(file, line, number, images)
        if is_visible:
            yield Mark(file, line, image, parts[part], (x, y))


def _image(file: Path, line: int, number: str, images: dict[str, str]) -> str:
    if number not in images:
        raise line_error(file, line, f"must have the number of an image of {_IMAGES}; got {number}")
    return images[number]


def _numbered(file: Path) -> Iterator[tuple[str, str]]:
    """Numbers and what they stand for."""
    for _, (number, name) in read_lines(file, 2):
        yield number, name


def _class_names(file: Path) -> dict[int, str]:
    found = {}
    for line, (number, name) in read_lines(file, 2):
        if not number.isdecimal():
            raise line_error(file, line, f"must have a whole number and a name; got {number!r}")
        found[int(number)] = name
    return found


def _by_number(file: Path) -> dict[str, int]:
    found = {}
    for line, (number, value) in read_lines(file, 2):
        if not value.isdecimal():
            raise line_error(file, line, f"must have two whole numbers; got {value!r}")
        found[number] = int(value)
    return found


LAYOUT = PublishedLayout("CUB-200-2011", (_IMAGES, _LABELS, _SPLIT, "images"), _list_images, _read_annotations)
