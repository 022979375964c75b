"""What a data folder has: classes, images, annotations and leaks, without a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protokern.data.annotations import open_annotations
from protokern.data.dataset import ImageDataset, Splits
from protokern.data.orientation import SWAPS_AXES
from protokern.data.places import is_photo_folder
from protokern.data.quality import data_warnings
from protokern.data.regions import BoxRegion
from protokern.data.sources import open_splits
from protokern.errors import DataError

SPLITS = ("train", "val", "test")
KINDS = ("boxes", "masks", "parts")
_SIDE = 64  # pixels; nothing that is told depends on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """The annotations of one kind.

    Attributes:
        file: the table or the folder that has them, or would have them.
        images: how many images have some, by split; empty if there is no such file.
        names: of the parts, or labels of the boxes, with their numbers.
    """

    file: str
    images: Mapping[str, int]
    names: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a data folder has.

    Attributes:
        notes: what counts, what was held out or skipped and why, as `Splits.notes`.
        classes: class names.
        counts: images of each class, by split.
        sizes: (columns, rows) of every image as people see it, upright.
        turned: how many images are turned by their EXIF orientation.
        modes, formats: how many images have each colour mode of Pillow, and each file format.
        marked: annotations by "boxes", "masks" and "parts".
        problem: why the annotations cannot be used; None if they can.
        warnings: leaks and other reasons against trusting results on these data, see `data_warnings`.
    """

    notes: tuple[str, ...]
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    sizes: tuple[tuple[int, int], ...]
    turned: int
    modes: Mapping[str, int]
    formats: Mapping[str, int]
    marked: Mapping[str, Marked]
    problem: str | None
    warnings: tuple[str, ...]


def inspect_data(root: Path) -> Inspection:
    """Read everything in a data folder that a training and `protokern metrics` would read, and say what it is.

    Every image is decoded. Files that cannot be read are left out, and the notes name them. A folder without a
    validation split, or without splits, is split as a training with seed 0 would do it.

    Args:
        root: a data folder.

    Raises:
        DataError: the folder cannot be used; the message says what to do.
    """
    if not is_photo_folder(str(root)):
        raise DataError(f"data: must be a folder of images; got {root}. Give the folder.")
    splits = open_splits(root, image_size=_SIDE, augmentation="none", on_unreadable="skip")
    data = dict(zip(SPLITS, (splits.push, splits.val, splits.test), strict=True))
    headers = [
        (header, images.orientation(index))
        for images in data.values()
        for index in range(len(images))
        if (header := images.header(index)) is not None
    ]
    marked, problem = _annotations(root, data)
    return Inspection(
        notes=_notes(splits),
        classes=tuple(splits.classes),
        counts={
            split: tuple(np.bincount(images.labels, minlength=len(splits.classes)).tolist())
            for split, images in data.items()
        },
        sizes=tuple(
            (header.height, header.width) if turn in SWAPS_AXES else (header.width, header.height)
            for header, turn in headers
        ),
        turned=sum(turn != 1 for _, turn in headers),
        modes=_counted(header.mode for header, _ in headers),
        formats=_counted(header.format for header, _ in headers),
        marked=marked,
        problem=problem,
        warnings=data_warnings(splits),
    )


def _notes(splits: Splits) -> tuple[str, ...]:
    return tuple(note.removesuffix("; written to the run folder") for note in splits.notes)


def _annotations(root: Path, data: Mapping[str, ImageDataset]) -> tuple[dict[str, Marked], str | None]:
    """The annotations by kind, and the error in them."""
    images: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    named: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    files: dict[str, str] = {}
    try:
        for split, own in data.items():
            found = open_annotations(root, own, [other for name, other in data.items() if name != split])
            files = found.names
            has = {"boxes": found.has_boxes, "masks": found.has_masks, "parts": found.has_parts}
            for kind, number in found.counts().items():
                if has[kind]:
                    images[kind][split] = number
            for index in range(len(own)):
                named["parts"].update(part.name for part in found.parts(index))
                for name, region in found.regions(index).items():
                    if isinstance(region, BoxRegion):
                        named["boxes"][name.removeprefix("box ")] += len(region.boxes)
    except DataError as error:
        return {}, str(error)
    return {kind: Marked(file=files[kind], images=images[kind], names=dict(named[kind])) for kind in KINDS}, None


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
