"""Places in an image and pictures of them: boxes, receptive fields, sufficient frames."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

PixelBox = tuple[int, int, int, int]  # (y0, x0, y1, x1), half-open pixels of the picture it belongs to


class Box(NamedTuple):
    """A rectangle of pixels, half-open: rows y0 <= y < y1 and columns x0 <= x < x1."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def area(self) -> int:
        return self.height * self.width


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Pixel intervals that the rows and columns of a feature map depend on.

    Attributes:
        rows: the half-open interval of pixel rows for each grid row.
        columns: the half-open interval of pixel columns for each grid column.
    """

    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]

    def box(self, row: int, column: int, size: tuple[int, int] = (1, 1)) -> Box:
        """Pixels seen by the patch of `size` (h, w) cells whose first cell is (row, column)."""
        last_row, last_column = row + size[0] - 1, column + size[1] - 1
        return Box(self.rows[row][0], self.columns[column][0], self.rows[last_row][1], self.columns[last_column][1])

    def share(self, image_size: tuple[int, int]) -> float:
        """How much of an image of `image_size` (Y, X) the cell in the middle of the grid can depend on, from 0 to 1."""
        return share_of_image(self.box(len(self.rows) // 2, len(self.columns) // 2), image_size)


def share_of_image(box: Box, image_size: tuple[int, int]) -> float:
    """The area of a box as a share of an image of `image_size` (Y, X)."""
    return box.height * box.width / (image_size[0] * image_size[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class SufficientFrame:
    """The smallest box found around a patch whose content alone keeps most of a similarity.

    Shares are of `similarity` and may be above 1, because pixels outside of a box can speak against a prototype.

    Attributes:
        box: pixels, with the cells of the patch inside; None if `similarity` is not positive, so that there is no
            share to keep.
        similarity: of the prototype and the patch in the whole image, before weights.
        kept_grey: share that is kept with grey outside of the box; at least the requested share.
        kept_blur: share that is kept with the blurred image outside.
        kept_other: share that is kept with another image outside; None if none was given.
        area: of the box, as a share of the image.
        passes: number of images that went through the net for this frame; images shared by several frames count once.
    """

    box: Box | None
    similarity: float
    kept_grey: float | None
    kept_blur: float | None
    kept_other: float | None
    area: float | None
    passes: int

    @property
    def is_whole(self) -> bool:
        """Whether the frame is the whole image."""
        return self.area == 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchView:
    """Where in one image a prototype looks.

    Attributes:
        prototype: its index.
        patch: (row, column) of the nearest patch in the grid of patches.
        heat_map: (Y, X) float32, the activation at every patch, bicubically upsampled to the image; or what
            `with_heat_map` put in its place. The boxes are always those of the upsampled map.
        activation_box: around the highest twentieth of the upsampled map's pixels, as in the paper.
        patch_box: around the cell of the nearest patch and those of these pixels that are connected with it; for
            people.
        receptive_field_box: all pixels that the nearest patch can depend on; never smaller than what the patch saw.
        cell: where the upsampled map shows the nearest patch.
        sufficient: the smallest box found whose content alone keeps the similarity; None if it was not searched for,
            see `frame_explanation`.
    """

    prototype: int
    patch: tuple[int, int]
    heat_map: np.ndarray
    activation_box: Box
    patch_box: Box
    receptive_field_box: Box
    cell: Box
    sufficient: SufficientFrame | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyPicture:
    """A picture that is read when it is drawn, so that a page of thousands needs the memory of one.

    NumPy can use it as an array: `np.asarray(picture)` is its pixels.

    Attributes:
        load: returns the pixels, (Y, X, 3) uint8, the same at each call.
        shape: of the pixels.
        key: identifies the picture; of two pictures with equal keys only one is read.
    """

    load: Callable[[], np.ndarray]
    shape: tuple[int, ...]
    key: Hashable

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.load(), dtype=dtype)


Picture = np.ndarray | LazyPicture


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPicture:
    """A picture with the view of one prototype.

    Attributes:
        image: (Y, X, 3) uint8.
        heat: (Y, X, 3) uint8, the image under its heat map; None if it is not shown.
        box: the frame that is drawn: what alone keeps the similarity, or the highest-activated part.
        receptive_field_box: the pixels that the nearest patch can depend on.
        cell: the nearest patch, drawn as a thin mark; None: it is not drawn.
        proof: the result of testing the frame; None: the frame was not tested.
    """

    image: Picture
    heat: Picture | None = None
    box: PixelBox
    receptive_field_box: PixelBox
    cell: PixelBox | None = None
    proof: SufficientFrame | None = None

    @property
    def sees_part(self) -> bool:
        """Whether the patch depends on less than the whole picture."""
        return tuple(self.receptive_field_box) != (0, 0, *self.image.shape[:2])
