"""Pixel boxes: where a heat map is high. Which pixels a patch can see at all is in receptive_field.py."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ACTIVATION_PERCENTILE = 95.0


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


def activation_box(heat_map: np.ndarray, percentile: float = ACTIVATION_PERCENTILE) -> Box:
    """Smallest box around every pixel that reaches the given percentile of the heat map.

    The box holds the highest pixel always, and the whole image if the map is constant.

    Args:
        heat_map: (Y, X) finite values, any scale.
        percentile: in [0, 100]; 95 marks the highest twentieth of the pixels.

    Raises:
        ValueError: the map is not (Y, X), is empty or holds NaN, or the percentile is out of range.

    Source: Chen et al. 2019, cfchen-duke/ProtoPNet find_high_activation_crop.
    """
    if heat_map.ndim != 2 or heat_map.size == 0:
        raise ValueError(f"heat_map: must have shape (Y, X) with Y, X >= 1; got {heat_map.shape}.")
    if not np.isfinite(heat_map).all():
        raise ValueError("heat_map: must be finite; got NaN or inf. Check the image and the weights of the model.")
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile: must be in [0, 100]; got {percentile}.")
    high = heat_map >= np.percentile(heat_map, percentile)
    rows = np.flatnonzero(high.any(axis=1))
    columns = np.flatnonzero(high.any(axis=0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
