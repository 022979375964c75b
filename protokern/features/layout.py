"""The files of a store, and the checks before they are read.

    STORE/store.json     format, sizes, fingerprint, whether it is complete; with a checksum of itself
    STORE/chunks.bin     a record for every chunk that is whole: labels, checksum of the features and of the record
    STORE/features.bin   images x rows x columns x channels, float32 or bfloat16, little endian
    STORE/lock           held by the process that writes

A chunk has CHUNK_IMAGES images, the last one the rest. Its features are on the disk before its record, and its record
before the next chunk begins. So the chunks with records are complete, whenever a writer was killed.
"""

from __future__ import annotations

import json
import math
import stat
import sys
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from protokern.errors import DataError
from protokern.features.fingerprint import Fingerprint
from protokern.storage.files import replacing

FORMAT = "protokern-features-"
VERSION = 2
OLDEST = 1  # without the arithmetic, which was "eager"
HEADER, CHUNKS, FEATURES, LOCK = "store.json", "chunks.bin", "features.bin", "lock"
CHUNK_IMAGES = 64
ADVICE = "Remove the folder, and it is written again, or give another one."

Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)  # of labels and indices
LARGEST_LABEL = 2**31 - 1

_MOST_HEADER_BYTES = 2**16
_MOST_BYTES = 2**50
_MOST_IMAGES = 2**28  # their labels take 2 GB
_PIECE_BYTES = 2**24  # of a chunk, which are read at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What `store.json` says.

    Attributes:
        images: in the data set.
        shape: (C, H, W) of the features of an image.
        precision: of the stored numbers.
        chunk_images: images in a chunk.
        fingerprint: what the features depend on.
        is_complete: whether all chunks are there.
    """

    images: int
    shape: tuple[int, int, int]
    precision: Precision
    fingerprint: Fingerprint
    chunk_images: int = CHUNK_IMAGES
    is_complete: bool = False

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's features."""
        return math.prod(self.shape) * DTYPES[self.precision].itemsize

    @property
    def chunks(self) -> int:
        """How many chunks a complete store has."""
        return -(-self.images // self.chunk_images)

    @property
    def record_bytes(self) -> int:
        """Bytes of one record in `chunks.bin`: a label for each image, and two checksums."""
        return 4 * (self.chunk_images + 2)

    def images_in(self, chunk: int) -> int:
        """How many images a chunk holds."""
        return min(self.chunk_images, self.images - chunk * self.chunk_images)


def write_layout(path: Path, layout: Layout) -> None:
    """Write `store.json`, completely or not at all.

    Raises:
        OSError: the disk is full or not writable.
    """
    table = {"format": f"{FORMAT}{VERSION}", **asdict(layout)}
    table["checksum"] = _checksum(table)
    with replacing(path / HEADER) as file:
        file.write(json.dumps(table, indent=1).encode())  # to the last byte, because a truncated file is broken


def read_layout(path: Path) -> Layout | None:
    """What `store.json` says; None when there is none.

    Raises:
        DataError: it is broken, of a newer version, or something else.
    """
    header = path / HEADER
    if not header.exists():
        return None
    _size(header)
    try:
        with header.open("rb") as file:
            content = file.read(_MOST_HEADER_BYTES + 1)
        if len(content) > _MOST_HEADER_BYTES:
            raise DataError(f"{header}: must have at most {_MOST_HEADER_BYTES} bytes; it has more. {ADVICE}")
        table = json.loads(content)
    except OSError as error:
        raise DataError(f"{header}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{header}: is not whole ({error}). {ADVICE}") from error
    _check_version(header, table)
    if table.pop("checksum", None) != _checksum(table):
        raise DataError(f"{header}: is damaged; its checksum does not fit. {ADVICE}")
    return _parse(header, table)


def _check_version(header: Path, table: Any) -> None:
    name = table.get("format") if isinstance(table, dict) else None
    if not isinstance(name, str) or not name.startswith(FORMAT):
        raise DataError(f"{header}: must be of a feature store; it is of something else. Give another folder.")
    number = name.removeprefix(FORMAT)
    if number.isdecimal() and len(number) < 5 and int(number) > VERSION:
        raise DataError(f"{header}: is of format {name}; this version reads up to {FORMAT}{VERSION}. Update protokern.")
    if number not in map(str, range(OLDEST, VERSION + 1)):
        raise DataError(f"{header}: must be of format {FORMAT}{VERSION}; got {name[:40]!r}. {ADVICE}")


def _parse(header: Path, table: dict[str, Any]) -> Layout:
    """The layout, with every value checked, because anybody can make a checksum."""
    try:
        layout = Layout(
            images=table["images"],
            shape=tuple(table["shape"]),
            precision=table["precision"],
            fingerprint=Fingerprint(**table["fingerprint"]),
            chunk_images=table["chunk_images"],
            is_complete=table["is_complete"],
        )
        sizes = (layout.images, layout.chunk_images, *layout.shape)
        is_sound = (
            len(layout.shape) == 3
            and all(type(size) is int and size >= 1 for size in sizes)
            and layout.images <= _MOST_IMAGES
            and layout.chunk_images <= 2**16
            and layout.precision in get_args(Precision)
            and type(layout.is_complete) is bool
            and all(isinstance(text, str) for text in asdict(layout.fingerprint).values())
            and layout.images * layout.image_bytes <= _MOST_BYTES
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{header}: must have the entries of a feature store; got others. {ADVICE}") from error
    if not is_sound:
        raise DataError(f"{header}: must have sizes of a feature store; got others. {ADVICE}")
    return layout


def _checksum(table: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(table, sort_keys=True).encode())


def completed(layout: Layout) -> Layout:
    """The same, complete."""
    return replace(layout, is_complete=True)


def chunk_checksum(features: bytes | memoryview, chunk: int) -> int:
    """Checksum of a chunk's features and position; another chunk with the same features has another one."""
    return zlib.crc32(features, chunk)


def make_record(labels: np.ndarray, checksum: int, chunk: int, layout: Layout) -> bytes:
    """The record of a chunk: its labels (n,), padded with -1, its checksum, and that of the record."""
    padded = np.full(layout.chunk_images, -1, dtype="<i4")
    padded[: len(labels)] = labels
    body = padded.tobytes() + checksum.to_bytes(4, "little")
    return body + zlib.crc32(body, chunk).to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Records:
    """What `chunks.bin` says: labels (n,) int64 of the images in complete chunks, and the checksum of each chunk."""

    labels: np.ndarray
    checksums: tuple[int, ...]


def read_records(path: Path, layout: Layout) -> Records:
    """The records of all complete chunks; in an unfinished store, a truncated last record is left out.

    Raises:
        DataError: records are missing, damaged, or too many.
    """
    file = path / CHUNKS
    size, wanted = _size(file), layout.chunks * layout.record_bytes
    if size > wanted or (layout.is_complete and size < wanted):
        raise DataError(f"{file}: must have {wanted} bytes; it has {size}. {ADVICE}")
    content = file.read_bytes() if size else b""
    labels, checksums = [np.zeros(0, dtype=np.int64)], []
    for chunk in range(len(content) // layout.record_bytes):
        record = content[chunk * layout.record_bytes :][: layout.record_bytes]
        if zlib.crc32(record[:-4], chunk) != int.from_bytes(record[-4:], "little"):
            raise DataError(f"{file}: is damaged at chunk {chunk}; its checksum does not fit. {ADVICE}")
        labels.append(np.frombuffer(record, dtype="<i4")[: layout.images_in(chunk)].astype(np.int64))
        checksums.append(int.from_bytes(record[-8:-4], "little"))
    return Records(np.concatenate(labels), tuple(checksums))


def check_features(
    path: Path, layout: Layout, records: Records, part: tuple[int, int] = (0, 1), *, piece_bytes: int = _PIECE_BYTES
) -> None:
    """Read the features of all complete chunks once, chunk by chunk, and compare their checksums.

    With a `part` (n, of) only the n-th of that many consecutive parts is read. At most `piece_bytes` are read at once.

    Raises:
        DataError: features are missing, damaged, or too many.
    """
    if sys.byteorder != "little":
        raise DataError(f"{path}: can be read on little-endian machines only.")
    file = path / FEATURES
    size, whole = _size(file), len(records.labels) * layout.image_bytes
    if size < whole or size > layout.images * layout.image_bytes or (layout.is_complete and size != whole):
        raise DataError(f"{file}: must have {whole} bytes; it has {size}. {ADVICE}")
    first_chunk, end = (len(records.checksums) * number // part[1] for number in (part[0], part[0] + 1))
    if first_chunk == end:
        return
    buffer = memoryview(bytearray(min(piece_bytes, whole)))
    with file.open("rb", buffering=0) as opened:
        opened.seek(first_chunk * layout.chunk_images * layout.image_bytes)
        for chunk, checksum in enumerate(records.checksums[first_chunk:end], start=first_chunk):
            if _read_checksum(opened, layout.images_in(chunk) * layout.image_bytes, chunk, buffer) != checksum:
                first = chunk * layout.chunk_images
                last = first + layout.images_in(chunk) - 1
                raise DataError(f"{file}: is damaged at images {first} to {last}; the checksum differs. {ADVICE}")


def _read_checksum(file: Any, size: int, chunk: int, buffer: memoryview) -> int | None:
    """Checksum of the next `size` bytes, see `chunk_checksum`; None if the file ends before."""
    checksum = chunk
    while size:
        count = file.readinto(buffer[:size])
        if not count:
            return None
        checksum = zlib.crc32(buffer[:count], checksum)
        size -= count
    return checksum


def _size(file: Path) -> int:
    """Size of a plain file; 0 if there is none. Opening anything else might block for ever."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{file}: must be a plain file; it is not. {ADVICE}")
    return status.st_size
