"""WebDataset shards: tar files of images and class indices, indexed once and then read at any position.

    DIR/train-000000.tar ...   DIR/val-*.tar (perhaps)   DIR/test-*.tar   DIR/classes.txt (perhaps)

The members of a sample share their name up to the first dot: an image, such as n01440764_10026.jpg, and its class index
as text, n01440764_10026.cls. Suffixes may be in capitals. If several images and labels share it, the name up to the
last dot distinguishes them. Nothing is unpacked to the disk.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from protokern.data.account import HIDDEN, PassedOver
from protokern.data.dataset import Sample
from protokern.data.names import SPLIT_NAMES, is_ignored, split_of
from protokern.data.packed import PackedSource, PackedSplit
from protokern.errors import DataError, ProtokernError

IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"),
    *("avif", "heic", "heif"),
)
LABEL_SUFFIX = "cls"
CLASS_NAMES = "classes.txt"
_LONGEST_LABEL = 32  # bytes
_LONGEST_TABLE = 2**16  # bytes of a file beside an image that is read
_LABEL_LIST = re.compile(rb"\s*\[?\s*-?\d+(\s*[,;\s]\s*-?\d+)+\s*\]?\s*")
_LABEL_NAMES = ("label", "labels", "class", "classes", "cls", "tag", "tags", "category", "categories", "annotations")
_LARGEST_NAMES = 2**24  # bytes of classes.txt
_LARGEST_HEADER = 2**20  # bytes


class _Headers:
    """A tar file as `tarfile` reads it to find its members: in small pieces, regardless of the length in a header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


class _Shards:
    """The images of one split: for every name the shard, the position in it and the length."""

    def __init__(self, folder: Path, shards: list[Path], passed: PassedOver) -> None:
        self._folder = folder
        self._passed = passed
        self._shards = shards
        self._places: dict[Path, tuple[int, int, int]] = {}
        self.samples: list[Sample] = []
        for number, shard in enumerate(shards):
            if not shard.is_file():
                raise DataError(f"data: must hold tar files; {shard} is not a plain file. Remove it.")
            try:
                with shard.open("rb") as file:
                    self._index(number, shard, _Headers(file))
            except ProtokernError:
                raise
            except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
                raise DataError(
                    f"data: must hold whole, uncompressed tar files; {shard} cannot be read ({error})."
                ) from error

    def read(self, name: Path, at_most: int) -> bytes:
        """The bytes of an image."""
        number, offset, length = self._places[name]
        if length > at_most:
            raise DataError(f"data: must hold images of at most {at_most} bytes; {name} has {length}.")
        try:
            with self._shards[number].open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise DataError(f"data: {self._shards[number]} can no longer be read ({error.strerror}).") from error

    def file_of(self, name: Path) -> Path:
        """The shard that holds an image."""
        return self._shards[self._places[name][0]]

    def _index(self, number: int, shard: Path, headers: Any) -> None:
        members = _Members(shard)
        with tarfile.open(fileobj=headers, mode="r:") as archive:
            for member in archive:
                if member.size < 0:  # some versions of Python would go back and loop for ever
                    raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
                if member.isdir():
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    self._passed.add("members that are links or devices", member.name)
                    continue
                members.add(archive, member, self._passed)
        for image, label in sorted(members.samples(self._passed), key=lambda sample: sample[0].offset_data):
            name = shard.relative_to(self._folder) / image.name.lstrip("/")
            self._places[name] = (number, image.offset_data, image.size)
            self.samples.append((name, label))


@dataclass(slots=True)
class _Sample:
    """The members that share a name up to the first dot; images and labels by the part up to the last dot."""

    images: list[tuple[str, tarfile.TarInfo]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    table: tarfile.TarInfo | None = None


class _Members:
    """The members of one shard, grouped into samples."""

    def __init__(self, shard: Path) -> None:
        self._shard = shard
        self._samples: dict[str, _Sample] = {}

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo, passed: PassedOver) -> None:
        """Record one plain member."""
        folder, _, base = member.name.rpartition("/")
        if is_ignored(base) or "__MACOSX" in folder.split("/"):
            passed.add(HIDDEN, member.name)
            return
        stem, _, rest = base.partition(".")
        middle, _, suffix = rest.lower().rpartition(".")
        sample = self._samples.setdefault(f"{folder}/{stem}", _Sample())
        if suffix in IMAGE_SUFFIXES:
            if any(middle == other for other, _ in sample.images):
                raise self._error("one image", f"two of {_as_told(f'{folder}/{stem}')}")
            sample.images.append((middle, member))
        elif suffix == LABEL_SUFFIX:
            if middle in sample.labels:
                raise self._error("one class index", f"two of {_as_told(f'{folder}/{stem}')}")
            sample.labels[middle] = _read_label(archive, member, self._shard)
        else:
            passed.add("other members of samples", f".{rest}")
            if suffix == "json":
                sample.table = member

    def samples(self, passed: PassedOver) -> Iterator[tuple[tarfile.TarInfo, int]]:
        """The image and the class index of every sample, in the order of the shard."""
        for key, sample in self._samples.items():
            if len(sample.images) == len(sample.labels) == 1:
                yield sample.images[0][1], next(iter(sample.labels.values()))
                continue
            pairs = [(middle, image) for middle, image in sample.images if middle in sample.labels]
            if len(pairs) < len(sample.labels) or (sample.images and not pairs):
                raise self._mismatch(key, sample)
            for middle, image in pairs:
                yield image, sample.labels[middle]
            for middle, image in sample.images:
                if middle not in sample.labels:
                    passed.add("images without a label beside one with it", image.name)

    def _mismatch(self, key: str, sample: _Sample) -> DataError:
        told = _as_told(key)
        if len(sample.labels) > 1 and len(sample.images) <= 1:
            names = " and ".join(sorted(f".{middle}.cls".replace("..", ".") for middle in sample.labels))
            return DataError(
                f"data: must have one class of every image; {self._shard} has {names} of {told} (multi-label). "
                "Keep one of them."
            )
        if len(sample.images) > 1:
            return self._error("one image", f"two of {told}")
        if sample.table is not None and _has_several_labels(self._shard, sample.table):
            return DataError(
                f"data: must have one class of every image, as a number in .{LABEL_SUFFIX}; {sample.table.name} in "
                f"{self._shard} has a list of labels (multi-label), which cannot be learnt. Choose one of them."
            )
        return self._error(f"an image and a .{LABEL_SUFFIX}", f"{told} with one of them only")

    def _error(self, wanted: str, got: str) -> DataError:
        return DataError(f"data: must have {wanted} of every sample; {self._shard} has {got}.")


def _as_told(key: str) -> str:
    return key.lstrip("/")


def _has_several_labels(shard: Path, member: tarfile.TarInfo) -> bool:
    """Whether a table beside an image holds a list under a name that labels have."""
    if member.size > _LONGEST_TABLE:
        return False
    with shard.open("rb") as file:
        file.seek(member.offset_data)
        content = file.read(member.size)
    try:
        table = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(table, dict) and any(isinstance(table.get(name), list) for name in _LABEL_NAMES)


def _read_label(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> int:
    file = archive.extractfile(member)
    text = b"" if file is None or member.size > _LONGEST_TABLE else file.read()
    if _LABEL_LIST.fullmatch(text):
        raise DataError(
            f"data: must hold one class index; {member.name} in {shard} holds several (multi-label), which cannot be "
            "learnt. Choose one of them."
        )
    try:
        return int(text if len(text) <= _LONGEST_LABEL else b"")
    except ValueError as error:
        raise DataError(
            f"data: must hold class indices as whole numbers; {member.name} in {shard} holds something else."
        ) from error


def open_shards(folder: Path) -> PackedSource:
    """Index the shards of a folder; see the top of this file.

    Raises:
        DataError: there is no such folder, or a shard is unusable.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise DataError(
            f"data: must be a folder of tar files; got {folder}, which {problem}. Write webdataset:DIR with "
            "that folder."
        )
    passed = PassedOver()
    shards_of = _shards_by_split(folder, passed)
    found = {}
    for name, paths in shards_of.items():
        shards = _Shards(folder, paths, passed)
        found[name] = PackedSplit(shards.samples, shards.read, shards.file_of)
    advice = "Name tar files train-*.tar and test-*.tar, not compressed."
    if passed.count:
        advice += f" Now {passed}."
    source = f"webdataset:{folder}"
    noun = f"files in {source}, besides labels"
    return PackedSource(source, found, _class_names(folder, found), advice, noun, passed)


def _shards_by_split(folder: Path, passed: PassedOver) -> dict[str, list[Path]]:
    """The tar files of every split, by name; `passed` gets everything else.

    Raises:
        DataError: two names for one split, such as val-0.tar and valid-0.tar.
    """
    found: dict[str, list[Path]] = {name: [] for name in SPLIT_NAMES}
    called: dict[str, set[str]] = {name: set() for name in SPLIT_NAMES}
    for path in sorted(folder.iterdir()):
        word, split = _split_in(path.name)
        if path.suffix.lower() == ".tar" and split is not None:
            found[split].append(path)
            called[split].add(word)
        elif is_ignored(path.name):
            passed.add(HIDDEN, path.name)
        elif path.name != CLASS_NAMES:
            passed.add("beside the tar files of splits", path.name)
    for words in called.values():
        if len(words) > 1:
            names = " and ".join(f"{word}-*.tar" for word in sorted(words))
            raise DataError(
                f"data: must have one name for each split; got {names} in {folder}, which mean the same. "
                "Give them one name, or move some of them away."
            )
    return found


def _split_in(name: str) -> tuple[str, str | None]:
    """The word of a file's name that gives its split, and that split: the first word, or else the only such one."""
    words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word]
    known = [(word, split_of(word)) for word in words]
    told = known[:1] if known and known[0][1] is not None else [entry for entry in known if entry[1] is not None]
    return told[0] if len(told) == 1 else ("", None)


def _class_names(folder: Path, found: dict[str, PackedSplit]) -> list[str]:
    """The names in classes.txt, one per line; without it, numbers."""
    path = folder / CLASS_NAMES
    if path.is_file():
        with path.open("rb") as file:
            content = file.read(_LARGEST_NAMES + 1)
        if len(content) > _LARGEST_NAMES:
            raise DataError(f"data: {path} must have at most {_LARGEST_NAMES} bytes, a name of a class in each line.")
        try:
            return [line for line in content.decode("utf-8").splitlines() if line]
        except UnicodeDecodeError as error:
            raise DataError(f"data: {path} must be UTF-8 text with one class name per line ({error}).") from error
    count = max((label for split in found.values() for _, label in split.samples), default=-1) + 1
    return [str(label) for label in range(count)]
