"""Masks of the objects in images: `masks/` beside a folder's splits, 255 = object, 128 = border, 0 = background."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from protokern.data.class_names import composed
from protokern.data.orientation import upright_pixels
from protokern.errors import DataError

FOLDER = "masks"
BACKGROUND, BORDER, OBJECT = 0, 128, 255
_DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def find_masks(folder: Path, names: Iterable[str]) -> dict[str, Path] | None:
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
    return found


def _stem(path: Path) -> str:
    return composed(path.with_suffix("").as_posix())


def _left_out(folder: Path, mask: Path) -> list[str]:
    """Files for this mask in the folder that the data leave out."""
    place = folder / mask.parent
    if not place.is_dir():
        return []
    return [composed(str(mask.parent / one.name)) for one in place.iterdir() if one.stem == mask.stem and one.is_file()]


def read_mask(path: Path, size: tuple[int, int], orientation: int) -> np.ndarray:
    """The object and its border, turned upright, (Y, X) bool.

    Args:
        path: a PNG of 8 bits.
        size: rows and columns of its image as stored.
        orientation: of that image's file.

    Raises:
        DataError: it cannot be read, is of another size, or has other values than 0, 128 and 255.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if (image.height, image.width) != size:
                raise DataError(
                    f"{path}: must have the pixels of its image as stored, {size[1]} x {size[0]}; "
                    f"got {image.width} x {image.height}. Save it again."
                )
            if image.mode not in ("L", "1"):
                raise DataError(f"{path}: must be grey with 8 bits; got {image.mode}. Save it again.")
            values = np.asarray(image.convert("L"))
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path}: must be a PNG that can be read; it cannot ({error}). Save it again.") from error
    others = sorted({*np.unique(values).tolist()} - {BACKGROUND, BORDER, OBJECT})
    if others:
        raise DataError(
            f"{path}: must hold {BACKGROUND} (background), {BORDER} (border) and {OBJECT} (object) alone; "
            f"got {others[0]}. Change the values."
        )
    return upright_pixels(values >= BORDER, orientation)
