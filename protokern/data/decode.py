"""Reads one photograph from disk as upright 8-bit RGB of a wanted size, or says why it cannot.

The only place in the package that opens image files. Data sets, the check before training and `protokern explain`
all come through here, so an image looks the same to each of them.
"""

from __future__ import annotations

import stat
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from protokern.errors import DataError

# Named formats only: without the list, Pillow would also try readers that start other programs (EPS).
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
Image.init()  # Pillow looks up a named format only among those that it has loaded

# Pixels of a file, unless more are allowed: Pillow's own limit. They take a quarter of a gigabyte as RGB.
MAX_PIXELS = 89_478_485
_ANY_PIXELS = 2**62  # where none is decoded
_LARGEST_PIXEL, _METADATA = 8, 2**24  # bytes; 16-bit RGBA without compression, and what may come besides
_limit_lock = threading.Lock()
_allowed: list[int] = []  # by every reader that is at work
_own_limit: int | None = None  # of Pillow, while readers are at work


class _TooLargeError(Exception):
    """More than was allowed; the text says how much."""


# What Pillow's readers let through when a file is damaged, beyond the OSError they promise.
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
    _TooLargeError,
)

_ORIENTATION_TAG = 0x0112
_TURNED_ORIENTATIONS = (5, 6, 7, 8)  # EXIF values that swap rows and columns
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


class UnreadableImageError(DataError):
    """One file is not an image that can be shown; `reason` says why in a few words."""

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


def read_photo(
    path: Path, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS, content: bytes | None = None
) -> np.ndarray:
    """Decode a photograph, turn it upright and squash it to `size` with an antialiased bilinear filter.

    Transparent images are laid on white; grey, palette, CMYK and 16-bit images become 8-bit RGB.

    Args:
        path: an image file.
        size: rows and columns of the result, pixels; the aspect ratio is not kept.
        max_pixels: of the file; one with more is refused before it is decoded.
        content: the bytes of the file; given, `path` only names it.

    Returns:
        (Y, X, 3) uint8.

    Raises:
        UnreadableImageError: missing, empty, not an image, damaged, truncated or too large.
    """
    rows, columns = size
    try:
        with _pillow_allows(max_pixels), _open_checked(path, max_pixels, content) as image:
            # A JPEG is decoded at 1/2, 1/4 or 1/8 where that still has enough pixels; other formats ignore this.
            image.draft(image.mode, (max(size), max(size)))
            decoded = _to_rgb(image)
            orientation = _orientation(image)  # asked for last: a PNG decodes to find it, and must fail above
            if orientation in _TURNED_ORIENTATIONS:
                rows, columns = columns, rows
            small = decoded.resize((columns, rows), Image.Resampling.BILINEAR)
    except _DAMAGE as error:
        raise UnreadableImageError(path, _reason(path, error)) from error
    turn = _UPRIGHT.get(orientation)
    return np.asarray(small if turn is None else small.transpose(turn))


def check_photo(path: Path, *, max_pixels: int = MAX_PIXELS) -> str | None:
    """Decode a photograph wholly, at the smallest scale its format allows; None if sound, else why it is not."""
    try:
        with _pillow_allows(max_pixels), _open_checked(path, max_pixels) as image:
            image.draft(image.mode, (1, 1))
            _to_rgb(image)
    except _DAMAGE as error:
        return _reason(path, error)
    return None


class ImageHeader(NamedTuple):
    """What a file says of its image before the pixels: columns and rows as stored, Pillow's mode, format."""

    width: int
    height: int
    mode: str
    format: str


def read_header(path: Path, *, content: bytes | None = None) -> ImageHeader | None:
    """The header of an image file, without decoding it; None if there is none that can be read.

    Args:
        path: an image file.
        content: the bytes of the file; given, `path` only names it.
    """
    try:
        source = path if content is None else BytesIO(content)
        with _pillow_allows(_ANY_PIXELS), Image.open(source, formats=IMAGE_FORMATS) as image:
            return ImageHeader(image.width, image.height, image.mode, image.format or "")
    except _DAMAGE:
        return None


def load_image(path: Path | str, image_size: int | tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """Read one photograph as a network sees it.

    Args:
        path: an image file.
        image_size: pixels, one number or (rows, columns); the aspect ratio is not kept.
        max_pixels: of the file; one with more is refused before it is decoded.

    Returns:
        (3, Y, X) float32 in [0, 1].

    Raises:
        DataError: the file is missing or is no image that can be read.
        ValueError: `image_size` is not a size.
    """
    pixels = read_photo(Path(path), parse_image_size(image_size), max_pixels=max_pixels)
    return pixels_to_tensor(pixels[np.newaxis].copy())[0]


def pixels_to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(B, Y, X, 3) uint8 to (B, 3, Y, X) float32 in [0, 1]."""
    channels_last = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return channels_last.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def most_bytes(max_pixels: int) -> int:
    """How long a file of so many pixels may be: some readers take all of it into memory."""
    return max_pixels * _LARGEST_PIXEL + _METADATA


def _open_checked(path: Path, max_pixels: int, content: bytes | None = None) -> Image.Image:
    """Open a file of which neither the bytes nor the pixels are too many; `content` stands for what is in it."""
    size = _size_of_file(path) if content is None else len(content)
    if size == 0:
        raise OSError("empty file, 0 bytes")
    if size > most_bytes(max_pixels):
        raise _TooLargeError(f"{size} bytes are too many for {_limit_in_words(max_pixels)}")
    image = Image.open(path if content is None else BytesIO(content), formats=IMAGE_FORMATS)
    if image.width * image.height > max_pixels:
        image.close()
        raise _TooLargeError(f"{image.width} x {image.height} pixels are more than {_limit_in_words(max_pixels)}")
    return image


def _size_of_file(path: Path) -> int:
    status = path.stat()
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
        raise OSError("not a plain file")  # reading might never end
    return status.st_size


def _limit_in_words(max_pixels: int) -> str:
    return f"the limit against decompression bombs, max_image_pixels = {max_pixels}"


@contextmanager
def _pillow_allows(max_pixels: int) -> Iterator[None]:
    """Let Pillow, which has one limit for the whole process, read images of so many pixels for a while."""
    _set_pillow_limit(_allowed.append, max_pixels)
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _TooLargeError(f"more pixels than {_limit_in_words(max_pixels)}") from error
    finally:
        _set_pillow_limit(_allowed.remove, max_pixels)


def _set_pillow_limit(change: Callable[[int], None], max_pixels: int) -> None:
    global _own_limit
    with _limit_lock:
        if not _allowed:
            _own_limit = Image.MAX_IMAGE_PIXELS
        change(max_pixels)
        Image.MAX_IMAGE_PIXELS = None if _own_limit is None else max(_own_limit, *_allowed, 0)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where the metadata is damaged: viewers show such a photograph as it is."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DAMAGE:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray((wide // 257).astype(np.uint8)).convert("RGB")
    if image.mode in _MODES_WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _reason(path: Path, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return (str(error) or type(error).__name__).replace(str(path), path.name).splitlines()[0]
