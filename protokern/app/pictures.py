"""The pictures of a page that a server shows: each has an address, and is encoded when it is asked for."""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
from collections import OrderedDict

import numpy as np

from protokern.report.images import NAME_LENGTH, Stored, encode, name_of
from protokern.results.places import LazyPicture, Picture

MOST_KEPT = 96_000_000  # bytes of encoded pictures in memory
MOST_MADE = 400_000_000  # bytes of pictures that were made for answers and not encoded yet


class Pictures:
    """All pictures of a run that pages have shown.

    A picture of the data or of a prototype is only remembered, and read again. One that was made for an answer is kept,
    as far as memory allows: as it is until it is asked for, encoded from then on.

    Args:
        address: what comes before the names of pictures.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._lasting: dict[str, LazyPicture] = {}
        self._made: OrderedDict[str, LazyPicture] = OrderedDict()
        self._made_bytes = 0
        self._encoded: OrderedDict[str, bytes] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes | None:
        """The JPEG file of a picture; None: there is no such picture any more."""
        with self._lock:
            if name in self._encoded:
                self._encoded.move_to_end(name)
                return self._encoded[name]
            lazy = self._lasting.get(name) or self._made.get(name)
        if lazy is None:
            return None
        data = encode(np.asarray(lazy))
        self._keep(name, data)
        with self._lock:
            if self._made.pop(name, None) is not None:
                self._made_bytes -= _size_of(lazy)
        return data

    def remember(self, picture: LazyPicture) -> str:
        """The name of a picture that is read when it is asked for."""
        if not isinstance(picture.key, tuple):  # an object without a value: of a picture that is made for one answer
            return self._remember_made(picture)
        name = f"{hashlib.sha256(repr(picture.key).encode()).hexdigest()[:NAME_LENGTH]}.jpg"
        with self._lock:
            self._lasting[name] = picture
        return name

    def _remember_made(self, picture: LazyPicture) -> str:
        name = f"{secrets.token_hex(NAME_LENGTH // 2)}.jpg"
        with self._lock:
            self._made[name] = picture
            self._made_bytes += _size_of(picture)
            while self._made_bytes > MOST_MADE and len(self._made) > 1:
                self._made_bytes -= _size_of(self._made.popitem(last=False)[1])
        return name

    def add(self, picture: np.ndarray) -> str:
        """The name of a picture (Y, X, 3) uint8, which is encoded now."""
        data = encode(picture)
        self._keep(name_of(data), data)
        return name_of(data)

    def _keep(self, name: str, data: bytes) -> None:
        with self._lock:
            if name not in self._encoded:
                self._num_bytes += len(data)
            self._encoded[name] = data
            self._encoded.move_to_end(name)
            while self._num_bytes > MOST_KEPT and len(self._encoded) > 1:
                self._num_bytes -= len(self._encoded.popitem(last=False)[1])


def _size_of(picture: LazyPicture) -> int:
    """Bytes: it holds colours and a heat map of float32 for every pixel."""
    return 7 * math.prod(picture.shape[:2])


class AddressShelf:
    """The pictures of one answer of the server, for a `View` of `protokern.report.view`."""

    def __init__(self, pictures: Pictures) -> None:
        self._all = pictures
        self._found: dict[int, tuple[str, object]] = {}  # keeps them alive, because ids may be used again

    def find(self, picture: Picture) -> Stored:
        """Where the page finds the picture."""
        owner = picture.key if isinstance(picture, LazyPicture) else picture
        if id(owner) not in self._found:
            name = self._all.remember(picture) if isinstance(picture, LazyPicture) else self._all.add(picture)
            self._found[id(owner)] = name, owner
        name = self._found[id(owner)][0]
        return Stored(f"{self._all.address}{name}", name, b"")

    @property
    def pictures(self) -> list[Stored]:
        """None: they are not part of the page."""
        return []

    @property
    def num_bytes(self) -> int:
        """None are in the page."""
        return 0
