"""From an opened image to the channels that a network sees: 8 bits as they are, more bits as float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageSequence

from protokern.data.grey import GreyRange, Values, ends_of

WITH_OPACITY = (2, 4)  # numbers of channels of which the last one is opacity
MOST_BANDS = 4  # of an image of one page
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_MODES_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's conversion to grey
_LARGEST = 2.0**16 - 1
# Pillow keeps the higher byte of each 16-bit value of a colour image. Read with the other byte order, it keeps the
# lower one; grey and alpha of 16 bits take the place of four values of 8.
_GREY_AND_ALPHA = "LA;16B"
_OTHER_BYTE = {
    _GREY_AND_ALPHA: "RGBA",
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBA;16N": "RGBA;16B",
}


def check_channels(channels: object) -> int:
    """The number of channels, if it is one.

    Raises:
        ValueError: it is not a positive whole number.
    """
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise ValueError(f"channels: must be a whole number of at least 1; got {channels!r}. Use for example 1 or 3.")
    return channels


def is_deep(image: Image.Image) -> bool:
    """Whether an image, of which only the header was read, has more than 8 bits per channel."""
    return _is_deep_mode(image.mode) or _raw_mode(image) in _OTHER_BYTE


def _is_deep_mode(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16")


def values_of(image: Image.Image, channels: int, reopened: Callable[[], Image.Image]) -> Values:
    """The values of a deep image, decoded; arguments as those of `layers_of`.

    Raises:
        ValueError: some are NaN or infinite, or the image cannot be brought to these channels.
    """
    return _values_in(_deep_array(image, reopened)[0] if channels in MODES else _page_stack(image, channels))


def layers_of(
    image: Image.Image, channels: int, grey_range: GreyRange, reopened: Callable[[], Image.Image]
) -> list[Image.Image]:
    """Decode an image to layers that can be resized: one of 8 bits a channel, or as many of floats in [0, 1].

    Args:
        image: opened, not yet decoded.
        channels: 1: grey, 2: grey and opacity, 3: RGB, 4: RGB and opacity; more: pages of a file.
        grey_range: of images with more than 8 bits a channel.
        reopened: opens the same file once more.

    Returns:
        One image of a mode of `channels` bands; or for a deep one `channels` images of mode F.

    Raises:
        ValueError: the image cannot be brought to these channels.
    """
    if channels not in MODES:
        return _pages(image, channels, grey_range)
    if is_deep(image):
        return [Image.fromarray(layer) for layer in _deep_layers(image, channels, grey_range, reopened)]
    return [_to_mode(image, channels)]


def to_display(pixels: np.ndarray) -> np.ndarray:
    """Channels (Y, X, C), uint8 or floats in [0, 1], as people see them: (Y, X, 3) uint8, opacity laid on white."""
    count = pixels.shape[2]
    if pixels.dtype == np.uint8 and count == 3:
        return pixels
    values = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
    if count in WITH_OPACITY:
        values = values[..., :-1] * values[..., -1:] + (1 - values[..., -1:])
    if values.shape[2] != 3:
        values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    # Half a step of the 8-bit scale is always rounded the same way.
    return np.floor(values * 255 + 0.5).clip(0, 255).astype(np.uint8)


def _to_mode(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # it is only when the image is changed in place
        image = converted
    has_alpha = image.mode in _MODES_WITH_ALPHA or "transparency" in image.info
    if channels in WITH_OPACITY:
        return image.convert("RGBA").convert(MODES[channels])
    if has_alpha:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert(MODES[channels])


def _pages(image: Image.Image, channels: int, grey_range: GreyRange) -> list[Image.Image]:
    stack = _page_stack(image, channels)
    if stack.dtype == np.uint8:
        scaled = stack.astype(np.float32) / 255
    else:
        scaled = _scale(stack, grey_range, is_float=image.mode == "F")
    return [Image.fromarray(np.ascontiguousarray(layer)) for layer in np.moveaxis(scaled, 2, 0)]


def _page_stack(image: Image.Image, channels: int) -> np.ndarray:
    """The grey pages of a file, (Y, X, C): uint8, or float32 where they have more bits."""
    count = getattr(image, "n_frames", 1)
    if count != channels:
        raise ValueError(f"{count} page{'s' if count != 1 else ''}, but {channels} channels need as many grey pages")
    pages = [page.copy() for page in ImageSequence.Iterator(image)]
    are_deep = {_is_deep_mode(page.mode) for page in pages}
    if len({page.size for page in pages}) > 1 or len(are_deep) > 1:
        raise ValueError("pages of several sizes or depths")
    if are_deep.pop():
        return np.stack([np.asarray(page, dtype=np.float32) for page in pages], axis=2)
    return np.stack([np.asarray(page.convert("L")) for page in pages], axis=2)


def _deep_layers(
    image: Image.Image, channels: int, grey_range: GreyRange, reopened: Callable[[], Image.Image]
) -> Sequence[np.ndarray]:
    values, opacity = _deep_array(image, reopened)
    return spread(_scale(values, grey_range, is_float=image.mode == "F"), opacity, channels)


def spread(values: np.ndarray, opacity: np.ndarray | None, channels: int) -> list[np.ndarray]:
    """Grey or RGB values in the channels of a run, (Y, X) float32 in [0, 1] each.

    Args:
        values: (Y, X, 1 or 3) in [0, 1].
        opacity: (Y, X) in [0, 1]; None: opaque.
        channels: 1 to 4.
    """
    if channels not in WITH_OPACITY and opacity is not None:
        values = values * opacity[..., None] + (1 - opacity[..., None])
    if channels <= 2 and values.shape[2] == 3:
        values = (values @ np.array(LUMA, dtype=np.float32))[..., None]
    layers = [np.ascontiguousarray(layer, dtype=np.float32) for layer in np.moveaxis(values, 2, 0)]
    if channels >= 3 and len(layers) == 1:
        layers *= 3
    if channels in WITH_OPACITY:
        layers.append(np.ones_like(layers[0]) if opacity is None else opacity)
    return layers


def _scale(values: np.ndarray, grey_range: GreyRange, *, is_float: bool) -> np.ndarray:
    """To [0, 1], float32."""
    low, high = ends_of(grey_range, partial(_values_in, values), is_float=is_float)
    if is_float:
        _check_finite(values)
    scaled: np.ndarray = ((values - low) / (high - low)).clip(0, 1).astype(np.float32)
    return scaled


def _check_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError("some pixels are NaN or infinite")


def _values_in(values: np.ndarray) -> Values:
    _check_finite(values)
    position = int((values.size - 1) * 0.99)
    usual = np.partition(values, position, axis=None)[position]
    return Values(float(values.min()), float(values.max()), float(usual))


def _deep_array(image: Image.Image, reopened: Callable[[], Image.Image]) -> tuple[np.ndarray, np.ndarray | None]:
    """The values (Y, X, 1 or 3) and the opacity (Y, X) in [0, 1], if the image has one; float32."""
    raw = _raw_mode(image)
    if raw not in _OTHER_BYTE:
        return np.asarray(image, dtype=np.float32)[..., None], None
    with reopened() as again:
        assert isinstance(again, ImageFile.ImageFile)
        again.tile = [_with_raw_mode(tile, _OTHER_BYTE[raw]) for tile in again.tile]
        other = np.asarray(again, dtype=np.float32)
    if raw == _GREY_AND_ALPHA:
        wide = other[..., ::2] * 256 + other[..., 1::2]
    else:
        wide = np.asarray(image, dtype=np.float32) * 256 + other
    opacity = wide[..., -1] / np.float32(_LARGEST) if wide.shape[2] in WITH_OPACITY else None
    return wide if opacity is None else wide[..., :-1], opacity


def _raw_mode(image: Image.Image) -> str:
    """How a file that is not decoded yet holds its pixels, in Pillow's words."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ""
    arguments = image.tile[0][3]
    return str(arguments if isinstance(arguments, str) else arguments[0] if arguments else "")


def _with_raw_mode(tile: Any, raw: str) -> Any:
    """The place of pixels in a file, to be read in another way; a plain tuple in older versions of Pillow."""
    arguments = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)
