"""Regions of an upright image, boxes and masks, and which points of a grid are in them, at any image size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Places along one side of an image: whole numbers (n,) over one number, in (0, 1) of the side.
Shares = tuple[np.ndarray, int]


@dataclass(frozen=True, slots=True)
class BoxRegion:
    """The area inside one or more boxes.

    Attributes:
        size: (Y, X) of the upright image, pixels.
        boxes: (y0, x0, y1, x1) each, pixels, not necessarily whole; half open.
    """

    size: tuple[int, int]
    boxes: tuple[tuple[float, float, float, float], ...]

    def covers(self, rows: Shares, columns: Shares) -> np.ndarray:
        """Which points (rows x columns) are in it, (n, m) bool, at any image size."""
        y = rows[0][:, None] * self.size[0] / rows[1]
        x = columns[0][None, :] * self.size[1] / columns[1]
        inside = np.zeros((len(rows[0]), len(columns[0])), dtype=bool)
        for y0, x0, y1, x1 in self.boxes:
            inside |= (y0 <= y) & (y < y1) & (x0 <= x) & (x < x1)
        return inside


@dataclass(frozen=True, slots=True)
class MaskRegion:
    """The area that a mask marks.

    Attributes:
        mask: (Y, X) bool, of the upright image, at any size.
    """

    mask: np.ndarray

    def covers(self, rows: Shares, columns: Shares) -> np.ndarray:
        """Which points (rows x columns) are in a marked pixel, (n, m) bool, at any image size."""
        height, width = self.mask.shape
        marked: np.ndarray = self.mask[np.ix_(rows[0] * height // rows[1], columns[0] * width // columns[1])]
        return marked


Region = BoxRegion | MaskRegion


@dataclass(frozen=True, slots=True)
class PartPoint:
    """The visible centre of a part.

    Attributes:
        name: of the part.
        y, x: position as shares of the upright image's rows and columns, in [0, 1]; the same for any resized image.
    """

    name: str
    y: float
    x: float
