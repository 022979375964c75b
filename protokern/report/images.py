"""Pictures of a page as small JPEG files. Equal pictures are stored once, under a name made of their bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from protokern.results.places import Picture

LONGEST_SIDE = 288  # pixels: sharp at the size of a card on a screen of usual density
NAME_LENGTH = 24  # hexadecimal digits
_QUALITY = 85
_FULL_COLOUR = 0  # no chroma subsampling, because the colours of a heat map have edges


@dataclass(frozen=True, slots=True)
class Stored:
    """A picture on the shelf.

    Attributes:
        index: position, counted from 0; or its address, on a page that a server shows.
        name: of the file; made of its bytes, so it holds no text of a user.
        data: the bytes of the file.
    """

    index: int | str
    name: str
    data: bytes


class Shelf(Protocol):
    """Where the pictures of a page are put."""

    def find(self, picture: Picture) -> Stored: ...

    @property
    def pictures(self) -> list[Stored]: ...

    @property
    def num_bytes(self) -> int: ...


class PictureShelf:
    """The pictures of one page, without repetition."""

    def __init__(self) -> None:
        self._by_name: dict[str, Stored] = {}
        self._by_key: dict[Hashable, tuple[Stored, Picture]] = {}

    def find(self, picture: Picture) -> Stored:
        """The picture on the shelf; it is added if it is new."""
        key = ("array", id(picture)) if isinstance(picture, np.ndarray) else ("lazy", picture.key)
        if key not in self._by_key:
            data = encode(np.asarray(picture))
            name = name_of(data)
            stored = self._by_name.setdefault(name, Stored(len(self._by_name), name, data))
            self._by_key[key] = stored, picture  # keeps the picture alive, because its id may be used again afterwards
        return self._by_key[key][0]

    @property
    def pictures(self) -> list[Stored]:
        """All pictures, by index."""
        return list(self._by_name.values())

    @property
    def num_bytes(self) -> int:
        return sum(len(one.data) for one in self._by_name.values())


def name_of(data: bytes) -> str:
    """The name of a picture's file, made of its bytes."""
    return f"{hashlib.sha256(data).hexdigest()[:NAME_LENGTH]}.jpg"


def encode(picture: np.ndarray, *, longest_side: int = LONGEST_SIDE) -> bytes:
    """A JPEG file of a picture, shrunk if a side is longer than `longest_side`.

    Args:
        picture: (Y, X, 3) uint8.
        longest_side: pixels.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    if max(image.size) > longest_side:
        scale = longest_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, subsampling=_FULL_COLOUR, optimize=True)
    return file.getvalue()
