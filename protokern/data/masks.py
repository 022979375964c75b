"""Masks of the objects in images: `masks/` beside a folder's splits, and those of published data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from protokern.data.class_names import composed
from protokern.data.orientation import upright_pixels
from protokern.errors import DataError

FOLDER = "masks"
BACKGROUND, BORDER, OBJECT = 0, 128, 255
_DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class MaskCode:
    """What the values of masks mean.

    Attributes:
        words: of every value that there may be; empty: any.
        is_object: from values (Y, X) uint8 to whether they are of the object or its border, bool.
        modes: of the files, in Pillow's words.
    """

    words: Mapping[int, str]
    is_object: Callable[[np.ndarray], np.ndarray]
    modes: tuple[str, ...] = ("L", "1")


OWN = MaskCode({BACKGROUND: "background", BORDER: "border", OBJECT: "object"}, lambda values: values >= BORDER)
# Oxford-IIIT Pet; the border is what its annotators did not decide.
TRIMAP = MaskCode({1: "object", 2: "background", 3: "border"}, lambda values: values != 2)
# CUB-200-2011: the brighter, the surer; the object is what is at least half as bright as white.
GREY_LEVELS = MaskCode({}, lambda values: values >= BORDER, ("L", "1", "LA"))


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """Masks of the images of a folder.

    Attributes:
        of: the file of every image that has one, by the image's composed name.
        code: what their values mean.
    """

    of: Mapping[str, Path]
    code: MaskCode = OWN


def find_masks(folder: Path, names: Iterable[str]) -> MaskFiles | None:
    """The mask of every image that has one, by the image's name; None if there is no folder of masks.

    Args:
        folder: the data folder.
        names: of all its images, as paths below it, composed.

    Raises:
        DataError: a mask belongs to no image, or to two.
    """
    root = folder / FOLDER
    if not root.is_dir():
        return None
    of_stem: dict[str, list[str]] = {}
    for name in names:
        of_stem.setdefault(_stem(Path(name)), []).append(name)
    found = {}
    for mask in sorted(root.rglob("*.png")):
        stem = _stem(mask.relative_to(root))
        images = of_stem.get(stem) or _left_out(folder, mask.relative_to(root))
        if len(images) != 1:
            got = "is of none" if not images else f"may be of {' or '.join(sorted(images))}"
            raise DataError(f"{mask}: must be the mask of one image, with its path; it {got}. Rename or remove it.")
        found[images[0]] = mask
    return MaskFiles(found)


def _stem(path: Path) -> str:
    return composed(path.with_suffix("").as_posix())


def _left_out(folder: Path, mask: Path) -> list[str]:
    """Files for this mask in the folder that the data leave out."""
    place = folder / mask.parent
    if not place.is_dir():
        return []
    return [composed(str(mask.parent / one.name)) for one in place.iterdir() if one.stem == mask.stem and one.is_file()]


def read_mask(path: Path, size: tuple[int, int], orientation: int, code: MaskCode = OWN) -> np.ndarray:
    """The object and its border, turned upright, (Y, X) bool.

    Args:
        path: a PNG of 8 bits.
        size: rows and columns of its image as stored.
        orientation: of that image's file.
        code: what its values mean.

    Raises:
        DataError: it cannot be read, is of another size, or has other values than those of the code.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if (image.height, image.width) != size:
                raise DataError(
                    f"{path}: must have the pixels of its image as stored, {size[1]} x {size[0]}; "
                    f"got {image.width} x {image.height}. Save it again."
                )
            if image.mode not in code.modes:
                raise DataError(f"{path}: must be grey with 8 bits; got {image.mode}. Save it again.")
            values = np.asarray(image.convert("L"))
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path}: must be a PNG that can be read; it cannot ({error}). Save it again.") from error
    others = sorted({*np.unique(values).tolist()} - {*code.words}) if code.words else []
    if others:
        *first, last = [f"{value} ({word})" for value, word in code.words.items()]
        raise DataError(f"{path}: must hold {', '.join(first)} and {last} alone; got {others[0]}. Change the values.")
    return upright_pixels(code.is_object(values), orientation)
