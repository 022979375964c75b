"""Changes of one visible property of an image: their effect on a prototype says how much the property matters to it.

The six changes of Nauta et al. 2020 with their parameters, and a check of any other change.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from protokern.explain.packages import import_extra

Modification = Callable[[np.ndarray], np.ndarray]


def change_brightness(image: np.ndarray, factor: float = 0.8) -> np.ndarray:
    """Blend with black: torchvision's `adjust_brightness` of a Pillow image."""
    return _adjust(image, "adjust_brightness", factor)


def change_contrast(image: np.ndarray, factor: float = 0.45) -> np.ndarray:
    """Blend with the mean grey of the image: torchvision's `adjust_contrast` of a Pillow image."""
    return _adjust(image, "adjust_contrast", factor)


def change_saturation(image: np.ndarray, factor: float = 0.7) -> np.ndarray:
    """Blend with the grey image: torchvision's `adjust_saturation` of a Pillow image."""
    return _adjust(image, "adjust_saturation", factor)


def change_hue(image: np.ndarray, shift: float = 0.1) -> np.ndarray:
    """Turn the colour circle by a share of it, in [-0.5, 0.5]: torchvision's `adjust_hue` of a Pillow image."""
    return _adjust(image, "adjust_hue", shift)


def change_shape(image: np.ndarray, amplitude: float = 4.0, frequency: float = 0.05) -> np.ndarray:
    """Bend every straight line into a wave: each row t is rolled along x, then each column t of the result along y.

    The shift is s(t) = int(amplitude * sin(pi * frequency * t)) pixels, rounded towards zero; pixels that leave the
    image at one side enter at the other.
    """
    height, width = image.shape[:2]
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    along_x = np.array(_wave(height, amplitude, frequency))[:, None]  # (Y, 1)
    along_y = np.array(_wave(width, amplitude, frequency))[None, :]  # (1, X)
    bent = image[rows, (columns - along_x) % width]
    return bent[(rows - along_y) % height, columns]


def change_texture(image: np.ndarray, strength: float = 4.0) -> np.ndarray:
    """Smooth fine patterns and keep edges: OpenCV's `fastNlMeansDenoisingColored`, windows of 7 and 21 pixels.

    OpenCV takes the channels as blue, green, red, and computes lightness by that order. The paper's script reads its
    files with OpenCV, in this order; here the channels are reversed before and after.

    Args:
        image: (Y, X, 3) uint8 RGB.
        strength: `h` and `hColor`.

    Raises:
        MissingPackageError: OpenCV is not installed.
    """
    cv2: Any = import_extra("cv2", "the modification texture")
    in_order = np.ascontiguousarray(image[..., ::-1])
    smooth = cv2.fastNlMeansDenoisingColored(
        in_order, None, h=strength, hColor=strength, templateWindowSize=7, searchWindowSize=21
    )
    return np.ascontiguousarray(smooth[..., ::-1])


# In the order of the tables and plots. Every value maps (Y, X, 3) uint8 RGB to a new array of the same kind and size.
# Source: Nauta et al. 2020, "This Looks Like That, Because ... Explaining Prototypes for Interpretable Image
# Recognition", section 3, and create_modified_datasets.py of M-Nauta/Explaining_Prototypes.
MODIFICATIONS: Mapping[str, Modification] = MappingProxyType(
    {
        "brightness": change_brightness,
        "contrast": change_contrast,
        "saturation": change_saturation,
        "hue": change_hue,
        "shape": change_shape,
        "texture": change_texture,
    }
)


def choose_modifications(names: Sequence[str] | None = None) -> dict[str, Modification]:
    """Some of `MODIFICATIONS` by name, in the order of the names; all of them for None.

    Raises:
        ValueError: a name is unknown, or no name is given.
        MissingPackageError: one of them needs a package that is not installed.
    """
    chosen = list(MODIFICATIONS if names is None else names)
    for name in chosen:
        if name not in MODIFICATIONS:
            close = difflib.get_close_matches(name, MODIFICATIONS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"modifications: must be of {', '.join(MODIFICATIONS)}; got {name!r}.{hint}")
    if not chosen:
        raise ValueError(f"modifications: must name at least one of {', '.join(MODIFICATIONS)}; got none.")
    if "texture" in chosen:
        import_extra("cv2", "the modification texture")
    return {name: MODIFICATIONS[name] for name in chosen}


def modify(image: np.ndarray, name: str, modification: Modification) -> np.ndarray:
    """The image after a modification; the result is checked.

    Raises:
        ValueError: the result is no array of the image's size and type, or the image is not (Y, X, 3) uint8.
    """
    check_image(image)
    modified = modification(image)
    if not isinstance(modified, np.ndarray) or modified.shape != image.shape or modified.dtype != np.uint8:
        raise ValueError(
            f"modifications: {name!r} must return an image like the one it is given, {_describe(image)}; "
            f"got {_describe(modified)}."
        )
    return modified


def check_image(image: np.ndarray) -> None:
    """Raise a ValueError unless the image is (Y, X, 3) uint8 with at least one pixel."""
    is_image = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not is_image or image.size == 0:
        raise ValueError(f"image: must be an array of shape (Y, X, 3) and type uint8; got {_describe(image)}.")


def _describe(value: Any) -> str:
    return f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else f"{type(value).__name__}"


def _adjust(image: np.ndarray, function: str, amount: float) -> np.ndarray:
    from PIL import Image
    from torchvision.transforms import functional

    return np.asarray(getattr(functional, function)(Image.fromarray(image), amount))


@cache
def _wave(length: int, amplitude: float, frequency: float) -> tuple[int, ...]:
    # The sine of the C library: NumPy's sine of many values may round to the other side of a whole number.
    return tuple(int(amplitude * math.sin(math.pi * t * frequency)) for t in range(length))
