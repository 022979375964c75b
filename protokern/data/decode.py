"""Reads one photograph from disk, upright and at a given size, or says why it cannot.

The only place in the package that opens image files. Data sets, the check before training and `protokern explain` all
use it, so an image looks the same to each of them.
"""

from __future__ import annotations

import stat
import struct
import zlib
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError, features

from protokern.data.grey import AUTO, GreyRange, Values, check_grey_range, ends_of
from protokern.data.orientation import ORIENTATION_TAG, UPRIGHT, to_size
from protokern.data.pixel_limit import MAX_PIXELS, TooLargeError, limit_in_words, pillow_allows
from protokern.data.pixels import MOST_BANDS, check_channels, is_deep, layers_of, to_display, values_of
from protokern.data.signatures import HEAD_BYTES, RAW_SUFFIXES, describe_content, is_heic
from protokern.errors import DataError

# Named formats only: without the list, Pillow would also try readers that start other programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Older versions of Pillow do not know AVIF.
IMAGE_FORMATS = (*_FORMATS, "AVIF") if "avif" in features.modules and features.check("avif") else _FORMATS
Image.init()  # Pillow finds a named format only among those that it has loaded

_ANY_PIXELS = 2**62  # where none is decoded
_LARGEST_PIXEL, _METADATA = 8, 2**24  # bytes; 16-bit RGBA without compression, plus metadata
# Errors of Pillow's readers for damaged files, in addition to the documented OSError.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    ImageCms.PyCMSError,
    TooLargeError,
)

# Tags of a TIFF that identify a RAW photograph.
_DNG_VERSION, _PHOTOMETRIC, _FILTER_ARRAY = 50706, 262, 32803


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How files become pixels.

    Attributes:
        max_pixels: limit of pixels; a file with more is refused before it is decoded.
        channels: 1: grey, 2: grey and opacity, 3: RGB, 4: RGB and opacity; more: grey pages of one file.
        grey_range: of files with more than 8 bits a channel; see `load_image`.

    Raises:
        ValueError: an argument is out of range.
    """

    max_pixels: int = MAX_PIXELS
    channels: int = 3
    grey_range: GreyRange = AUTO

    def __post_init__(self) -> None:
        check_channels(self.channels)
        object.__setattr__(self, "grey_range", check_grey_range(self.grey_range))


DEFAULT = ReadOptions()


def describe_ends(options: ReadOptions) -> str:
    """The effect of a set or measured range on pixels, as the end of a sentence; empty without a range."""
    if isinstance(options.grey_range, str):
        return ""
    low, high = options.grey_range
    return f", {low:g} to {high:g} of more than 8 bits"


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """What was found in a file.

    Attributes:
        reason: why it is not a readable image; None if it is.
        values: values of a file with more than 8 bits per channel; None for others.
        is_sequence: an animation or several pages, of which the first one is used.
    """

    reason: str | None
    values: Values | None = None
    is_sequence: bool = False


class UnreadableImageError(DataError):
    """A file is not a readable image; `reason` says why in a few words."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"image: must be a readable photograph; got {path} ({reason}). Replace or remove the file.")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)


def parse_image_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Turn one number or (rows, columns) into (rows, columns) in pixels, each at least 1.

    Raises:
        ValueError: anything else.
    """
    size = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(size) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in size):
        raise ValueError(
            f"image_size: must be a positive number of pixels or a pair (rows, columns); got {image_size!r}. "
            "Use for example 224 or (192, 256)."
        )
    return size[0], size[1]


def read_pixels(
    path: Path, size: tuple[int, int], options: ReadOptions = DEFAULT, content: bytes | None = None
) -> np.ndarray:
    """Decode a photograph, turn it upright and resize it to `size` with an antialiased bilinear filter.

    Transparent images are laid on white if the channels have no opacity. Palette, CMYK and LAB images become RGB.

    Args:
        path: an image file.
        size: rows and columns of the result, pixels; the aspect ratio is not kept.
        options: how it is read.
        content: the bytes of the file; if given, `path` only names it.

    Returns:
        (Y, X, C) uint8; or float32 in [0, 1] for a file of more than 8 bits a channel, of which nothing is rounded.

    Raises:
        UnreadableImageError: missing, empty, not an image, damaged, truncated or too large.
    """
    try:
        with pillow_allows(options.max_pixels), _open_checked(path, options.max_pixels, content) as image:
            # A JPEG is decoded at 1/2, 1/4 or 1/8 if that has enough pixels; other formats ignore this.
            image.draft(image.mode, (max(size), max(size)))
            layers = layers_of(image, options.channels, options.grey_range, partial(_open, path, content))
            return to_size(layers, size, orientation_of(image))  # read last: a PNG decodes to find it
    except _DAMAGE as error:
        raise UnreadableImageError(path, _reason(path, error, content)) from error


def read_photo(
    path: Path, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS, content: bytes | None = None
) -> np.ndarray:
    """A photograph as people see it, upright and resized to `size`; see `read_pixels`.

    Returns:
        (Y, X, 3) uint8; files of more than 8 bits are rounded.

    Raises:
        UnreadableImageError: missing, empty, not an image, damaged, truncated or too large.
    """
    return to_display(read_pixels(path, size, ReadOptions(max_pixels=max_pixels), content))


def inspect_photo(path: Path, options: ReadOptions = DEFAULT, content: bytes | None = None) -> PhotoFacts:
    """Decode a whole photograph, at the smallest scale its format allows, and say what it is or why it is not one."""
    values = None
    try:
        with pillow_allows(options.max_pixels), _open_checked(path, options.max_pixels, content) as image:
            reopened = partial(_open, path, content)
            if is_deep(image):
                values = values_of(image, options.channels, reopened)
                ends_of(options.grey_range, lambda: values, is_float=image.mode == "F")
            else:
                image.draft(image.mode, (1, 1))
                layers_of(image, options.channels, options.grey_range, reopened)
            is_sequence = options.channels <= MOST_BANDS and _has_several_pictures(image)
    except _DAMAGE as error:
        return PhotoFacts(_reason(path, error, content))
    return PhotoFacts(None, values, is_sequence)


def _has_several_pictures(image: Image.Image) -> bool:
    """Whether there is more than one picture; False if what follows the first one is damaged."""
    try:
        return bool(getattr(image, "is_animated", False))
    except _DAMAGE:
        return False


def is_deep_photo(path: Path, options: ReadOptions = DEFAULT, content: bytes | None = None) -> bool:
    """Whether a file has more than 8 bits per channel, by its header alone; False if it cannot be read."""
    try:
        with pillow_allows(options.max_pixels), _open_checked(path, options.max_pixels, content) as image:
            return is_deep(image)
    except _DAMAGE:
        return False


def check_photo(path: Path, *, max_pixels: int = MAX_PIXELS) -> str | None:
    """Decode a whole photograph, at the smallest scale its format allows; None if sound, else why it is not."""
    return inspect_photo(path, ReadOptions(max_pixels=max_pixels)).reason


class ImageHeader(NamedTuple):
    """The header of an image file: columns and rows as stored, Pillow's mode, format."""

    width: int
    height: int
    mode: str
    format: str


def read_header(path: Path, *, content: bytes | None = None) -> ImageHeader | None:
    """The header of an image file, without decoding the image; None if it cannot be read.

    Args:
        path: an image file.
        content: the bytes of the file; if given, `path` only names it.
    """
    try:
        with pillow_allows(_ANY_PIXELS), _open(path, content) as image:
            return ImageHeader(image.width, image.height, image.mode, image.format or "")
    except _DAMAGE:
        return None


def read_orientation(path: Path, *, content: bytes | None = None) -> int:
    """The EXIF orientation that `read_pixels` undoes, 1 to 8; 1 (upright) if there is none or the file is unreadable.

    Args:
        path: an image file.
        content: the bytes of the file; if given, `path` only names it.
    """
    try:
        with pillow_allows(_ANY_PIXELS), _open(path, content) as image:
            orientation = orientation_of(image)
    except _DAMAGE:
        return 1
    return orientation if orientation in UPRIGHT else 1


def load_image(
    path: Path | str,
    image_size: int | tuple[int, int],
    *,
    max_pixels: int = MAX_PIXELS,
    channels: int = 3,
    grey_range: GreyRange = AUTO,
) -> torch.Tensor:
    """Read one photograph as a network sees it.

    Args:
        path: an image file.
        image_size: pixels, one number or (rows, columns); the aspect ratio is not kept.
        max_pixels: limit of pixels; a file with more is refused before it is decoded.
        channels: 1: grey, 2: grey and opacity, 3: RGB, 4: RGB and opacity; more: grey pages of one file.
        grey_range: values of a file of more than 8 bits a channel that become 0 and 1. "auto": 0 and the largest value
            of the smallest of 8, 10, 12, 14 and 16 bits that hold the file's own largest one; "type": 0 and 65535. For
            images of a run give the range of its configuration, so that a value means the same in all of them.

    Returns:
        (channels, Y, X) float32 in [0, 1].

    Raises:
        DataError: the file is missing or is not a readable image.
        ValueError: an argument is out of range.
    """
    return read_image(
        Path(path), image_size, ReadOptions(max_pixels=max_pixels, channels=channels, grey_range=grey_range)
    )


def read_image(path: Path, image_size: int | tuple[int, int], options: ReadOptions) -> torch.Tensor:
    """`load_image` with the options of a run, (C, Y, X)."""
    pixels = read_pixels(path, parse_image_size(image_size), options)
    return pixels_to_tensor(pixels[np.newaxis].copy())[0]


def pixels_to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(B, Y, X, C), uint8 or float32 in [0, 1], to (B, C, Y, X) float32 in [0, 1]."""
    channels_last = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    scaled = channels_last.to(torch.float32, memory_format=torch.contiguous_format)
    return scaled.div_(255) if pixels.dtype == np.uint8 else scaled


def most_bytes(max_pixels: int) -> int:
    """The largest size in bytes of a file with this many pixels: some readers load all of it into memory."""
    return max_pixels * _LARGEST_PIXEL + _METADATA


def _open_checked(path: Path, max_pixels: int, content: bytes | None = None) -> Image.Image:
    """Open a file that has neither too many bytes nor too many pixels; `content` replaces its content."""
    size = _size_of_file(path) if content is None else len(content)
    if size == 0:
        raise OSError("empty file, 0 bytes")
    if size > most_bytes(max_pixels):
        raise TooLargeError(f"{size} bytes are too many for {limit_in_words(max_pixels)}")
    image = _open(path, content)
    if image.width * image.height > max_pixels:
        image.close()
        raise TooLargeError(f"{image.width} x {image.height} pixels are more than {limit_in_words(max_pixels)}")
    if _is_raw(path, image):
        image.close()
        raise OSError("a RAW photograph, of which this would be the preview: convert it to JPEG or PNG")
    return image


def _open(path: Path, content: bytes | None) -> Image.Image:
    source = path if content is None else BytesIO(content)
    try:
        return Image.open(source, formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        if not is_heic(_head(path, content)):
            raise
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        raise UnidentifiedImageError(str(path)) from error
    return Image.open(path if content is None else BytesIO(content), formats=("HEIF",))


def _head(path: Path, content: bytes | None) -> bytes:
    if content is not None:
        return content[:HEAD_BYTES]
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _is_raw(path: Path, image: Image.Image) -> bool:
    """Whether a TIFF is a camera's RAW file, of which Pillow would only give a small preview."""
    if image.format != "TIFF":
        return False
    tags = getattr(image, "tag_v2", {})
    return path.suffix.lower() in RAW_SUFFIXES or _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) == _FILTER_ARRAY


def _size_of_file(path: Path) -> int:
    status = path.stat()
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
        raise OSError("not a plain file")  # reading might never end
    return status.st_size


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if the metadata is damaged: viewers show such a photograph as stored."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except _DAMAGE:
        return 1


def _reason(path: Path, error: BaseException, content: bytes | None = None) -> str:
    if isinstance(error, FileNotFoundError):
        return f"a link to {path.readlink()}, where no file is" if path.is_symlink() else "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, UnidentifiedImageError):
        return _describe(path, content)
    return (str(error) or type(error).__name__).replace(str(path), path.name).splitlines()[0]


def _describe(path: Path, content: bytes | None) -> str:
    try:
        size = path.stat().st_size if content is None else len(content)
        readable = [*(["AVIF"] if "AVIF" in IMAGE_FORMATS else []), *(["HEIC"] if "HEIF" in Image.OPEN else [])]
        return describe_content(_head(path, content), size, readable)
    except OSError:
        return "not an image"
