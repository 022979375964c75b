"""The search for a sufficient frame, one box at a time: which boxes are tested, and which is the smallest."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import NamedTuple

from protokern.results.places import Box

_LEAST_STEPS = 14  # of an axis: cells are cut in equal parts until there are so many

Sides = tuple[int, int, int, int]  # top, left, bottom, right of a box: places among the lines


def is_inside(one: Sides, other: Sides) -> bool:
    """Whether a box is in another one."""
    return one[0] >= other[0] and one[1] >= other[1] and one[2] <= other[2] and one[3] <= other[3]


class Lines(NamedTuple):
    """Where the sides of a box may be: pixels, ascending, from 0 to the side of the image."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @classmethod
    def of_grid(cls, grid: tuple[int, int], image_size: tuple[int, int]) -> Lines:
        """The ends of all cells of a grid (H, W) in an image (Y, X), and of their parts: at least 14 steps an axis."""
        return cls(_axis(grid[0], image_size[0]), _axis(grid[1], image_size[1]))

    @property
    def whole(self) -> Sides:
        """The whole image."""
        return 0, 0, len(self.rows) - 1, len(self.columns) - 1

    def around(self, cells: Box, grid: tuple[int, int]) -> Sides:
        """The smallest box with some cells inside, counted in the grid (H, W)."""
        top, bottom = _ends(self.rows, cells.y0, cells.y1, grid[0])
        left, right = _ends(self.columns, cells.x0, cells.x1, grid[1])
        return top, left, bottom, right

    def box(self, sides: Sides) -> Box:
        """The box in pixels."""
        top, left, bottom, right = sides
        return Box(self.rows[top], self.columns[left], self.rows[bottom], self.columns[right])


def _axis(num_cells: int, num_pixels: int) -> tuple[int, ...]:
    steps = num_cells * max(1, math.ceil(_LEAST_STEPS / num_cells))
    return tuple(sorted({step * num_pixels // steps for step in range(steps + 1)}))


def _ends(lines: tuple[int, ...], first: int, last: int, num_cells: int) -> tuple[int, int]:
    start, end = (lines.index(cell * lines[-1] // num_cells) for cell in (first, last))
    return (start, end) if end > start else (min(start, len(lines) - 2), min(start, len(lines) - 2) + 1)


class Seeker:
    """One search, which waits between two tests.

    Attributes:
        asked: the box to test next; None when the search is over.
    """

    def __init__(self, cell: Sides, whole: Sides, share: float) -> None:
        self._steps = seek_smallest(cell, whole, share)
        self.asked: Sides | None = next(self._steps, None)

    def tell(self, kept: float) -> None:
        """Answer what the asked box keeps."""
        try:
            self.asked = self._steps.send(kept)
        except StopIteration:
            self.asked = None


def seek_smallest(cell: Sides, whole: Sides, share: float) -> Generator[Sides, float, None]:
    """Yields a box to test, is sent the share that it keeps, and so on; the smallest that keeps enough is among them.

    The cell is grown on all sides to the smallest size that does, and then each side is moved inwards as far as it
    goes, the side with most room first; both by bisection. The whole image is never asked for: it keeps everything.

    Args:
        cell: inside of every box.
        whole: the image.
        share: that must be kept.
    """
    sizes = [size for size in _grown(cell, whole) if size != whole]
    box = whole
    low, high = -1, len(sizes)
    while high - low > 1:
        middle = (low + high) // 2
        if (yield sizes[middle]) >= share:
            high, box = middle, sizes[middle]
        else:
            low = middle
    room = [abs(outer - inner) for outer, inner in zip(box, cell, strict=True)]
    for side in sorted(range(4), key=lambda side: -room[side]):
        low, high = 0, room[side] + 1
        while high - low > 1:
            middle = (low + high) // 2
            if (yield _moved(box, side, middle)) >= share:
                low = middle
            else:
                high = middle
        box = _moved(box, side, low)


def _grown(cell: Sides, whole: Sides) -> list[Sides]:
    """The cell grown by 1, 2, 3, 5, 8, ... steps on all sides, until it is the whole image."""
    top, left, bottom, right = cell
    grown: list[Sides] = []
    steps, before = 1, 1
    while not grown or grown[-1] != whole:
        grown.append(
            (max(0, top - steps), max(0, left - steps), min(whole[2], bottom + steps), min(whole[3], right + steps))
        )
        steps, before = steps + before, steps
    return grown


def _moved(box: Sides, side: int, steps: int) -> Sides:
    """A box with one side moved inwards."""
    moved = list(box)
    moved[side] += steps if side < 2 else -steps
    top, left, bottom, right = moved
    return top, left, bottom, right
