"""Pictures inside a page: small WebP files as data: URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from protokern.report.data import PixelBox

LONGEST_SIDE = 288  # pixels: sharp at the size a card shows it, on a screen of usual density
_QUALITY = 80


def to_data_uri(picture: np.ndarray, *, longest_side: int = LONGEST_SIDE) -> str:
    """Encode a picture as it is, or shrunk so that no side is longer than `longest_side`.

    Args:
        picture: (Y, X, 3) uint8.
        longest_side: pixels.

    Returns:
        A `data:image/webp;base64,` URI.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    if max(image.size) > longest_side:
        scale = longest_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def crop(picture: np.ndarray, box: PixelBox) -> np.ndarray:
    """The part of a picture inside a box."""
    y0, x0, y1, x1 = box
    return picture[y0:y1, x0:x1]
