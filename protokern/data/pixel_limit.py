"""How many pixels Pillow may read: it has one limit per process, and several readers run at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from PIL import Image

# Limit of pixels of a file, unless more are allowed: Pillow's limit. They take a quarter of a gigabyte as RGB.
MAX_PIXELS = 89_478_485

_limit_lock = threading.Lock()
_allowed: list[int] = []  # by every reader that is at work
_own_limit: int | None = None  # of Pillow, while readers are at work


class TooLargeError(Exception):
    """More than was allowed; the text says how much."""


def limit_in_words(max_pixels: int) -> str:
    return f"the limit against decompression bombs, max_image_pixels = {max_pixels}"


@contextmanager
def pillow_allows(max_pixels: int) -> Iterator[None]:
    """Let Pillow, which has one limit per process, read images of this many pixels inside the block."""
    _set_pillow_limit(_allowed.append, max_pixels)
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"more pixels than {limit_in_words(max_pixels)}") from error
    finally:
        _set_pillow_limit(_allowed.remove, max_pixels)


def _set_pillow_limit(change: Callable[[int], None], max_pixels: int) -> None:
    global _own_limit
    with _limit_lock:
        if not _allowed:
            _own_limit = Image.MAX_IMAGE_PIXELS
        change(max_pixels)
        Image.MAX_IMAGE_PIXELS = None if _own_limit is None else max(_own_limit, *_allowed, 0)
