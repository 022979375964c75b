"""Images that a program holds already, as a network sees them: pictures of Pillow, arrays, tensors; or paths."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image, ImageFile

from protokern.data.decode import ReadOptions, orientation_of, parse_image_size, pixels_to_tensor, read_image
from protokern.data.orientation import to_size
from protokern.data.pixels import MOST_BANDS, WITH_OPACITY, layers_of, spread

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//|[a-z]+/[a-z]+[;,])")
_WANTED = "a path, a picture of Pillow, an array (Y, X) or (Y, X, C), or a tensor (C, Y, X)"
_ROUNDING = 1e-4  # how far floats of a program may be beyond 0 and 1


def as_image(given: Any, image_size: int | tuple[int, int], options: ReadOptions) -> torch.Tensor:
    """An image as the network of a run sees it, however a program holds it; its pixels are those of the file.

    Args:
        given: a path; a picture of Pillow, of any mode, which is turned upright as its EXIF data say; an array (Y, X)
            or (Y, X, C); or a tensor (C, Y, X). Numbers are uint8; floats in [0, 1]; or grey uint16, which is read like
            a file of 16 bits. C is 1 for grey, 2 with opacity, 3 for RGB, 4 with opacity, or the channels of the run.
        image_size: pixels, one number or (rows, columns); images of another size are resized like files.
        options: how the run reads its images.

    Returns:
        (C, Y, X) float32 in [0, 1].

    Raises:
        ValueError: it is none of these, an address on the web, or has numbers out of range.
        DataError: a path is of no readable image.
    """
    size = parse_image_size(image_size)
    if isinstance(given, (str, os.PathLike)):
        path = os.fspath(given)
        if isinstance(path, bytes) or _ADDRESS.match(path):
            got = "bytes" if isinstance(path, bytes) else f"the address {path[:60]!r}"
            raise ValueError(f"image: must be {_WANTED}; got {got}. Save it as a file first: nothing is downloaded.")
        return read_image(Path(path), size, options)
    if isinstance(given, Image.Image):
        return _from_picture(given, size, options)
    if isinstance(given, torch.Tensor):
        if given.ndim != 3:
            _refuse(f"a tensor of shape {tuple(given.shape)}", "Give one image at a time, as images[0].")
        return _from_array(given.detach().cpu().movedim(0, 2).numpy(), size, options)
    if isinstance(given, np.ndarray):
        if given.ndim not in (2, 3):
            _refuse(f"an array of shape {given.shape}", "Give one image at a time, as images[0].")
        return _from_array(given if given.ndim == 3 else given[..., None], size, options)
    raise ValueError(f"image: must be {_WANTED}; got {type(given).__name__}. Convert it to one of these.")


def name_of(given: Any) -> str:
    """The file name of a path or of a picture that was opened from a file; otherwise empty."""
    path = getattr(given, "filename", "") if isinstance(given, Image.Image) else given
    return Path(path).name if isinstance(path, (str, os.PathLike)) else ""


def _refuse(got: str, advice: str) -> NoReturn:
    raise ValueError(f"image: must be {_WANTED}; got {got}. {advice}")


def _from_picture(picture: Image.Image, size: tuple[int, int], options: ReadOptions) -> torch.Tensor:
    if picture.width * picture.height > options.max_pixels or not picture.width * picture.height:
        _refuse(f"{picture.width} x {picture.height} pixels", f"At most {options.max_pixels} are read, at least one.")
    if isinstance(picture, ImageFile.ImageFile) and picture.tile and picture.filename:
        # Not decoded yet; Pillow would drop half of 16 bits as it decodes.
        return read_image(Path(os.fsdecode(picture.filename)), size, options)
    picture.load()
    layers = layers_of(picture, options.channels, options.grey_range, picture.copy)
    return _to_tensor(to_size(layers, size, orientation_of(picture)))


def _from_array(values: np.ndarray, size: tuple[int, int], options: ReadOptions) -> torch.Tensor:
    """From (Y, X, C), of the types that `as_image` names."""
    bands = values.shape[2]
    if 0 in values.shape or bands not in {*range(1, MOST_BANDS + 1), options.channels}:
        _refuse(f"shape {values.shape} with {bands} channels", f"The images of this net have {options.channels}.")
    if values.dtype == np.uint16 and bands == 1 and options.channels <= MOST_BANDS:
        return _from_picture(Image.fromarray(np.ascontiguousarray(values[..., 0])), size, options)
    is_plain = bands <= MOST_BANDS and options.channels <= MOST_BANDS
    if values.dtype == np.uint8 and is_plain:
        pixels = np.ascontiguousarray(values[..., 0] if bands == 1 else values)
        return _from_picture(Image.fromarray(pixels), size, options)
    floats = _in_range(values)
    if is_plain and bands != options.channels:
        opacity = floats[..., -1] if bands in WITH_OPACITY else None
        bare = floats if opacity is None else floats[..., :-1]
        layers = spread(bare, opacity, options.channels)
    elif bands == options.channels:
        layers = [np.ascontiguousarray(layer) for layer in np.moveaxis(floats, 2, 0)]
    else:
        _refuse(f"{bands} channels", f"The images of this net have {options.channels}.")
    return _to_tensor(to_size([Image.fromarray(layer) for layer in layers], size, 1))


def _in_range(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values.astype(np.float32) / 255
    if values.dtype.kind != "f":
        _refuse(f"numbers of type {values.dtype}", "Convert them to uint8, or to floats in [0, 1].")
    low, high = float(values.min()), float(values.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN is refused too
        _refuse(f"floats from {low:g} to {high:g}", "Give them in [0, 1], as before a normalisation.")
    return values.astype(np.float32).clip(0, 1)


def _to_tensor(pixels: np.ndarray) -> torch.Tensor:
    return pixels_to_tensor(pixels[np.newaxis].copy())[0]
