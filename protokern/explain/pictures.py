"""From tensors to pictures: images as (Y, X, 3) uint8, heat maps in colour. Nothing here writes files."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from protokern.results.places import Box

_COLOUR_MAP = "inferno"  # perceptually uniform: equal steps of activation look equal, in print and to colour-blind eyes
_LEAST_OPACITY, _MOST_OPACITY = 0.1, 0.75
_BLUR, _SHOWN_PERCENTILE = 0.01, 99.0
_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue
_FRAME, _FRAME_EDGE = (255, 210, 63), (20, 20, 20)  # visible on bright and on dark pictures


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic upsampling of activation maps (N, H, W) to the image, (N, Y, X); equal to OpenCV's INTER_CUBIC."""
    return interpolate(maps[:, None].float(), size=size, mode="bicubic", align_corners=False)[:, 0]


def to_picture(image: Tensor) -> np.ndarray:
    """Show an image tensor as people would see it.

    One channel is shown in grey, three as RGB, any other number as its mean in grey. Values within [0, 1] are shown
    unchanged; other ranges (a loader that normalises) are stretched from their least to their greatest value.

    Args:
        image: (C, Y, X), finite, any real dtype.

    Returns:
        (Y, X, 3) uint8.

    Raises:
        ValueError: the image is not (C, Y, X).
    """
    if image.ndim != 3 or image.shape[0] == 0:
        raise ValueError(f"image: must have shape (C, Y, X); got {tuple(image.shape)}.")
    values = image.detach().to("cpu", torch.float32)
    if values.shape[0] != 3:
        values = values.mean(dim=0, keepdim=True).expand(3, -1, -1)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        values = (values - low) / max(high - low, torch.finfo(torch.float32).tiny)
    return values.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def overlay_heat(picture: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """Blend a heat map over a grey copy of a picture: transparent where it is low, bright where it is high.

    The copy is grey, so that its colours cannot be mistaken for those of the heat map.
    The map is scaled from its least to its greatest value: compare colours within a picture, not between two.
    A constant map is shown as low everywhere.

    Args:
        picture: (Y, X, 3) uint8.
        heat_map: (Y, X), any scale.

    Returns:
        (Y, X, 3) uint8.

    Raises:
        ValueError: the two sizes differ.
    """
    if picture.shape[:2] != heat_map.shape:
        raise ValueError(f"heat_map: must have shape {picture.shape[:2]} to match the picture; got {heat_map.shape}.")
    span = float(heat_map.max() - heat_map.min())
    heat = (heat_map - heat_map.min()).astype(np.float32) / np.float32(span if span > 0 else 1)  # (Y, X) in [0, 1]
    table = _colours()
    colour = table[np.minimum(heat * len(table), len(table) - 1).astype(np.intp)]  # (Y, X, 3)
    opacity = (_LEAST_OPACITY + (_MOST_OPACITY - _LEAST_OPACITY) * heat * np.sqrt(heat))[..., None]
    grey = (picture.astype(np.float32) @ np.array(_LUMINANCE, dtype=np.float32))[..., None]  # (Y, X, 1)
    return np.rint(grey + (colour - grey) * opacity).astype(np.uint8)


@cache
def _colours() -> np.ndarray:
    """The colours of heat from lowest to highest, (256, 3) float32 in [0, 255]."""
    from matplotlib import colormaps

    return (colormaps[_COLOUR_MAP](np.arange(256))[:, :3] * 255).astype(np.float32)


def make_visible(heat_map: np.ndarray) -> np.ndarray:
    """Make a heat map of single bright pixels, as gradients give it, visible: it is slightly blurred and clipped.

    The blur is a Gaussian of a hundredth of the longer side, at least one pixel, and stays within the smallest box
    around all non-zero pixels. The highest hundredth of that box is shown as equally high.

    Args:
        heat_map: (Y, X), >= 0.

    Returns:
        (Y, X), of the same dtype; a map of zeros is not changed.
    """
    from scipy.ndimage import gaussian_filter  # takes a sixth of a second to import

    rows, columns = (np.flatnonzero(heat_map.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return heat_map
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    sigma = max(1.0, _BLUR * max(heat_map.shape))
    blurred = gaussian_filter(
        heat_map[box].astype(np.float64), sigma, mode="constant", cval=0.0, radius=round(3 * sigma)
    )
    visible = np.zeros_like(heat_map)
    visible[box] = np.minimum(blurred, np.percentile(blurred, _SHOWN_PERCENTILE))
    return visible


def draw_box(picture: np.ndarray, box: Box) -> np.ndarray:
    """A copy of a picture with a yellow frame, between two dark lines, along the inner edge of a box.

    Args:
        picture: (Y, X, 3) uint8.
        box: inside the picture.
    """
    framed = picture.copy()
    for inset, colour in enumerate((_FRAME_EDGE, _FRAME, _FRAME, _FRAME_EDGE)):
        y0, x0, y1, x1 = box.y0 + inset, box.x0 + inset, box.y1 - inset, box.x1 - inset
        if y0 < y1 and x0 < x1:
            framed[y0:y1, [x0, x1 - 1]] = colour
            framed[[y0, y1 - 1], x0:x1] = colour
    return framed
