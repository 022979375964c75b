"""Reads files of `torch.save`, new (zip) and old, without running anything that they ask for.

Tensors are views of the mapped file, so a file costs no more memory than its size, and what is not used costs none.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from protokern.errors import CheckpointError

from .pickles import MAGIC, Budget, read_pickle
from .stand_ins import StoredNumbers, TensorRecord

_KINDS = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_PROTOCOL = 1001
_MOST_ENTRIES = 100_000  # of a zip
_LARGEST_DIRECTORY = 1 << 24  # bytes
_ADVICE = "Give a file that torch.save wrote."


class Place(NamedTuple):
    """Bytes of a file: where they begin, and how many they are."""

    start: int
    size: int


@dataclass(frozen=True)
class TorchFile:
    """The content of a file of `torch.save`.

    Attributes:
        path: of the file.
        root: what was saved, as `read_pickle` gives it.
        numbers: from the name of a storage and the dtype to all of its numbers.
    """

    path: Path
    root: Any
    numbers: Callable[[str, torch.dtype], Tensor]

    def tensor(self, record: TensorRecord) -> Tensor:
        """The tensor that a record describes; it must not be changed in place.

        Raises:
            CheckpointError: its numbers are missing, fewer than described, or of an unknown kind.
        """
        numbers = record.numbers
        whole = self.numbers(numbers.key, _dtype_of(self.path, numbers))
        if len(whole) < numbers.start + numbers.count:
            raise CheckpointError(
                f"{self.path}: must hold {numbers.start + numbers.count} numbers in storage {numbers.key[:40]!r}; it "
                f"has {len(whole)}. {_ADVICE}"
            )
        return whole.as_strided(record.shape, record.stride, numbers.start + record.offset)


def read_torch_file(path: Path) -> TorchFile:
    """Read a file of `torch.save`: a state dict, a whole module, or a dictionary with one of them.

    Raises:
        CheckpointError: the file is missing, is something else, is cut off, exceeds a limit, or describes tensors that
            lie outside of it.
    """
    with _named(path):
        content = _map(path)
        if content[:2] == b"PK":
            return _read_zip(path, content)
        return _read_old(path, content)


def read_plain_pickle(path: Path) -> Any:
    """The object of a file of `pickle.dump`, as `read_pickle` gives it; tensors inside it are left out.

    Raises:
        CheckpointError: as `read_torch_file`.
    """
    with _named(path):
        return read_pickle(_map(path), Budget(), storages=False)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file an error is about."""
    try:
        yield
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}. {_ADVICE}") from error


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise CheckpointError("is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})") from error


def _dtype_of(path: Path, numbers: StoredNumbers) -> torch.dtype:
    if numbers.kind not in _KINDS:
        raise CheckpointError(
            f"{path}: must hold plain numbers; got a storage of the kind {numbers.kind[:40]!r}. Save the network in "
            "float32."
        )
    return _KINDS[numbers.kind]


def _read_zip(path: Path, content: mmap.mmap) -> TorchFile:
    entries = zip_entries(content)
    pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError("is a zip without the one data.pkl of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise CheckpointError("is a TorchScript program, not a network or its state dict")
    order = entries.get(f"{folder}byteorder")
    if order is not None and content[order.start : order.start + order.size] != sys.byteorder.encode():
        raise CheckpointError(f"was written on a machine of the other byte order than this one ({sys.byteorder})")
    start, size = entries[pickles[0]]
    content.seek(start)
    root = read_pickle(content, Budget())
    if content.tell() > start + size:
        raise CheckpointError("has a pickle that is longer than its entry in the zip")

    def numbers(key: str, dtype: torch.dtype) -> Tensor:
        place = entries.get(f"{folder}data/{key}")
        if place is None:
            raise CheckpointError(f"{path}: must hold the storage {key[:40]!r}, which is missing. {_ADVICE}")
        return _numbers_at(content, place, dtype)

    return TorchFile(path, root, numbers)


def _numbers_at(content: mmap.mmap, place: Place, dtype: torch.dtype) -> Tensor:
    count = place.size // dtype.itemsize
    if count == 0:
        return torch.zeros(0, dtype=dtype)
    if place.start % dtype.itemsize:  # processors want numbers at multiples of their size
        copied = bytearray(content[place.start : place.start + count * dtype.itemsize])
        return torch.frombuffer(copied, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype, count=count, offset=place.start)


def zip_entries(content: mmap.mmap) -> dict[str, Place]:
    """The entries of a zip file by name; all must be stored as they are.

    Python's own reader makes an object of each entry before it can be asked how many there are.

    Raises:
        CheckpointError: the file is cut off or broken, entries are compressed, too many, or larger than the file.
    """
    try:
        start, size, count = _find_directory(content)
        if count > _MOST_ENTRIES or size > _LARGEST_DIRECTORY:
            raise CheckpointError(f"is a zip of more than {_MOST_ENTRIES:,} entries")
        entries: dict[str, Place] = {}
        for _ in range(count):
            name, place, start = _read_entry(content, start)
            entries[name] = place
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError("is no whole zip file of torch.save; it may be cut off") from error
    if sum(place.size for place in entries.values()) > len(content):
        raise CheckpointError("is a zip whose entries need more bytes than the file has")
    return entries


def _find_directory(content: mmap.mmap) -> tuple[int, int, int]:
    """Where the list of entries begins, its bytes, and the number of entries."""
    end = content.rfind(b"PK\x05\x06", max(0, len(content) - (1 << 16) - 22))
    if end < 0:
        raise ValueError("no end")
    count, size, start = struct.unpack_from("<10xHLL", content, end)
    locator = end - 20
    if locator >= 0 and content[locator : locator + 4] == b"PK\x06\x07":
        (record,) = struct.unpack_from("<8xQ", content, locator)
        if content[record : record + 4] != b"PK\x06\x06":
            raise ValueError("no record")
        count, size, start = struct.unpack_from("<32xQQQ", content, record)
    return start, size, count


def _read_entry(content: mmap.mmap, start: int) -> tuple[str, Place, int]:
    """Name and place of an entry, and where the next one begins in the list."""
    if content[start : start + 4] != b"PK\x01\x02":
        raise ValueError("no entry")
    flags, method, packed, size, len_name, len_extra, len_comment, at = struct.unpack_from(
        "<8xHH8xLLHHH8xL", content, start
    )
    if method != 0 or flags & 1:
        raise CheckpointError("is compressed or encrypted, as torch.save never does")
    begin = start + 46
    name = content[begin : begin + len_name].decode()
    extra = content[begin + len_name : begin + len_name + len_extra]
    size, packed, at = _wide_numbers(extra, size, packed, at)
    if packed != size or content[at : at + 4] != b"PK\x03\x04":
        raise ValueError("no content")
    len_own_name, len_own_extra = struct.unpack_from("<26xHH", content, at)
    first = at + 30 + len_own_name + len_own_extra
    if first + size > len(content):
        raise ValueError("cut off")
    return name, Place(first, size), begin + len_name + len_extra + len_comment


def _wide_numbers(extra: bytes, *numbers: int) -> list[int]:
    """The numbers of an entry; those that do not fit into 32 bits are in its extra field."""
    found, position = list(numbers), 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            wide = position + 4
            for index, number in enumerate(numbers):
                if number == 0xFFFFFFFF:
                    (found[index],) = struct.unpack_from("<Q", extra, wide)
                    wide += 8
        position += 4 + length
    return found


def _read_old(path: Path, content: mmap.mmap) -> TorchFile:
    """The format before torch 1.6: small pickles, the object, the names of its storages, then their numbers."""
    budget = Budget()
    if content[:1] != b"\x80" or read_pickle(content, budget) != MAGIC:
        raise CheckpointError("is no file of torch.save")
    if read_pickle(content, budget) != _PROTOCOL:
        raise CheckpointError("is of an unknown version of torch.save")
    system = read_pickle(content, budget)
    if isinstance(system, dict) and system.get("little_endian", True) is not (sys.byteorder == "little"):
        raise CheckpointError(f"was written on a machine of the other byte order than this one ({sys.byteorder})")
    kinds: dict[str, torch.dtype] = {}
    root = read_pickle(content, budget, seen=lambda numbers: kinds.setdefault(numbers.key, _dtype_of(path, numbers)))
    keys = read_pickle(content, budget)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError("does not name its storages")
    places: dict[str, Place] = {}
    position = content.tell()
    for key in keys:
        if key not in kinds or key in places or position + 8 > len(content):
            raise CheckpointError("is no whole file of torch.save; it may be cut off")
        (count,) = struct.unpack_from("<q", content, position)
        place = Place(position + 8, count * kinds[key].itemsize)
        position = place.start + place.size
        if count < 0 or position > len(content):
            raise CheckpointError("is no whole file of torch.save; it may be cut off")
        places[key] = place

    def numbers(key: str, dtype: torch.dtype) -> Tensor:
        if key not in places:
            raise CheckpointError(f"{path}: must hold the storage {key[:40]!r}, which is missing. {_ADVICE}")
        return _numbers_at(content, places[key], dtype)

    return TorchFile(path, root, numbers)
