"""The pictures of a page that a server shows: each has an address, and is encoded when it is asked for."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np

from protokern.report.images import NAME_LENGTH, Stored, encode, name_of
from protokern.results.places import LazyPicture, Picture

MOST_KEPT = 96_000_000  # bytes of encoded pictures in memory


class Pictures:
    """All pictures of a run that pages have shown.

    A picture that can be read again is only remembered; one that was made for an answer is encoded and kept, as far as
    memory allows.

    Args:
        address: what comes before the names of pictures.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._lazy: dict[str, LazyPicture] = {}
        self._encoded: OrderedDict[str, bytes] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes | None:
        """The JPEG file of a picture; None: there is no such picture any more."""
        with self._lock:
            if name in self._encoded:
                self._encoded.move_to_end(name)
                return self._encoded[name]
            lazy = self._lazy.get(name)
        if lazy is None:
            return None
        data = encode(np.asarray(lazy))
        self._keep(name, data)
        return data

    def remember(self, picture: LazyPicture) -> str:
        """The name of a picture that is read when it is asked for."""
        name = f"{hashlib.sha256(repr(picture.key).encode()).hexdigest()[:NAME_LENGTH]}.jpg"
        with self._lock:
            self._lazy[name] = picture
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


class AddressShelf:
    """The pictures of one answer of the server, for a `View` of `protokern.report.view`."""

    def __init__(self, pictures: Pictures) -> None:
        self._all = pictures
        self._arrays: dict[int, tuple[str, np.ndarray]] = {}  # keeps them alive, because ids may be used again

    def find(self, picture: Picture) -> Stored:
        """Where the page finds the picture."""
        if isinstance(picture, LazyPicture):
            name = self._all.remember(picture)
        elif id(picture) in self._arrays:
            name = self._arrays[id(picture)][0]
        else:
            name = self._all.add(picture)
            self._arrays[id(picture)] = name, picture
        return Stored(f"{self._all.address}{name}", name, b"")

    @property
    def pictures(self) -> list[Stored]:
        """None: they are not part of the page."""
        return []

    @property
    def num_bytes(self) -> int:
        """None are in the page."""
        return 0
