"""The EXIF orientation of a photograph: how what is stored, pixels or coordinates, becomes upright."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

ORIENTATION_TAG = 0x0112
SWAPS_AXES = (5, 6, 7, 8)  # orientations that swap rows and columns
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_size(layers: Sequence[Image.Image], size: tuple[int, int], orientation: int) -> np.ndarray:
    """The layers of a stored image, upright and resized with an antialiased bilinear filter.

    Args:
        layers: images of one size, each with one or several channels.
        size: rows and columns of the result.
        orientation: as stored.

    Returns:
        (Y, X, C), the channels of all layers.
    """
    rows, columns = upright_size(size, orientation)
    turn = UPRIGHT.get(orientation)
    resized = [layer.resize((columns, rows), Image.Resampling.BILINEAR) for layer in layers]
    arrays = [np.asarray(layer if turn is None else layer.transpose(turn)) for layer in resized]
    pixels = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=2)
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Rows and columns of an image that is stored with `size` rows and columns, once it is upright."""
    return (size[1], size[0]) if orientation in SWAPS_AXES else size


def upright_pixels(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (Y, X), turned upright."""
    turned = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].T,
        8: np.rot90(pixels),
    }
    return turned.get(orientation, pixels)


def upright_points(points: np.ndarray, size: tuple[int, int], orientation: int) -> np.ndarray:
    """Points (N, 2), each (y, x) in pixels of a stored image of `size` rows and columns, in the upright image.

    Points are places on a plane, in which pixel (0, 0) is the square from (0, 0) to (1, 1).
    """
    rows, columns = size
    y, x = points[:, 0], points[:, 1]
    turned = {
        2: (y, columns - x),
        3: (rows - y, columns - x),
        4: (rows - y, x),
        5: (x, y),
        6: (x, rows - y),
        7: (columns - x, rows - y),
        8: (columns - x, y),
    }
    return np.stack(turned.get(orientation, (y, x)), axis=1)
