"""Pixel boxes: where a heat map is high. receptive_field.py finds which pixels a patch can see at all."""

from __future__ import annotations

import numpy as np

from protokern.results.places import Box

ACTIVATION_PERCENTILE = 95.0


def activation_box(heat_map: np.ndarray, percentile: float = ACTIVATION_PERCENTILE) -> Box:
    """Smallest box around every pixel that reaches the given percentile of the heat map.

    The box always holds the highest pixel; for a constant map it is the whole image.

    Args:
        heat_map: (Y, X) finite values, any scale.
        percentile: in [0, 100]; 95 marks the highest twentieth of the pixels.

    Raises:
        ValueError: the map is not (Y, X), is empty or holds NaN, or the percentile is out of range.

    Source: Chen et al. 2019, cfchen-duke/ProtoPNet find_high_activation_crop.
    """
    return _box_around(_high_pixels(heat_map, percentile))


def cell_box(grid: tuple[int, int], patch: tuple[int, int], image_size: tuple[int, int]) -> Box:
    """The part of the image where an upsampled map shows one cell of its grid; at least one pixel.

    Args:
        grid: (H, W), rows and columns of the map.
        patch: (row, column) of the cell.
        image_size: (Y, X), pixels.
    """
    y0, y1 = _cell_interval(patch[0], grid[0], image_size[0])
    x0, x1 = _cell_interval(patch[1], grid[1], image_size[1])
    return Box(y0, x0, y1, x1)


def _cell_interval(index: int, num_cells: int, num_pixels: int) -> tuple[int, int]:
    start = index * num_pixels // num_cells
    return start, max(start + 1, (index + 1) * num_pixels // num_cells)


def patch_box(heat_map: np.ndarray, cell: Box, percentile: float = ACTIVATION_PERCENTILE) -> Box:
    """Smallest box around a cell and the high pixels that are connected with it.

    If a map has several peaks, its activation box spans them all, and most of the pixels between them are low. This box
    stays with the patch that gave the distance, so it is the box to show to people.

    Args:
        heat_map: (Y, X) finite values, any scale.
        cell: box where the map shows the nearest patch.
        percentile: in [0, 100]; pixels that reach it are high.

    Raises:
        ValueError: as `activation_box`.
    """
    return _box_around_connected(_high_pixels(heat_map, percentile), cell)


def find_boxes(heat_map: np.ndarray, cell: Box, percentile: float = ACTIVATION_PERCENTILE) -> tuple[Box, Box]:
    """The activation box and the patch box of a heat map; its percentile is computed once.

    Arguments and errors as in `patch_box`.
    """
    high = _high_pixels(heat_map, percentile)
    return _box_around(high), _box_around_connected(high, cell)


def _box_around_connected(high: np.ndarray, cell: Box) -> Box:
    """Box around a cell and the pixels of `high` that are connected with it."""
    from scipy import ndimage  # takes a sixth of a second to import

    allowed = high.copy()
    allowed[cell.y0 : cell.y1, cell.x0 : cell.x1] = True
    parts, _ = ndimage.label(allowed)  # (Y, X): the pixels of one part touch along edges, not only at corners
    return _box_around(parts == parts[cell.y0, cell.x0])


def _high_pixels(heat_map: np.ndarray, percentile: float) -> np.ndarray:
    if heat_map.ndim != 2 or heat_map.size == 0:
        raise ValueError(f"heat_map: must have shape (Y, X) with Y, X >= 1; got {heat_map.shape}.")
    if not np.isfinite(heat_map).all():
        raise ValueError("heat_map: must be finite; got NaN or inf. Check the image and the weights of the model.")
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile: must be in [0, 100]; got {percentile}.")
    high: np.ndarray = heat_map >= np.percentile(heat_map, percentile)
    return high


def _box_around(pixels: np.ndarray) -> Box:
    rows = np.flatnonzero(pixels.any(axis=1))
    columns = np.flatnonzero(pixels.any(axis=0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
