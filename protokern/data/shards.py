"""WebDataset shards: tar files of images and class indices, indexed once and then read at any place.

    DIR/train-000000.tar ...   DIR/val-*.tar (perhaps)   DIR/test-*.tar   DIR/classes.txt (perhaps)

The members of a sample share their name up to the first dot: an image, such as n01440764_10026.jpg, and its class index
as text, n01440764_10026.cls. Suffixes may be in capitals. Nothing is unpacked to the disk.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any, BinaryIO

from protokern.data.packed import PackedSource, PackedSplit, Sample
from protokern.errors import DataError, ProtokernError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
LABEL_SUFFIX = "cls"
_LONGEST_LABEL = 32  # bytes
_LARGEST_NAMES = 2**24  # bytes of classes.txt
_LARGEST_HEADER = 2**20  # bytes


class _Headers:
    """A tar file as `tarfile` reads it to find its members: in small pieces, whatever length a header claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


class _Shards:
    """The images of one split: for every name the shard, the place in it and the length."""

    def __init__(self, folder: Path, shards: list[Path]) -> None:
        self._folder = folder
        self._shards = shards
        self._places: dict[Path, tuple[int, int, int]] = {}
        self.samples: list[Sample] = []
        for number, shard in enumerate(shards):
            if not shard.is_file():
                raise DataError(f"data: must hold tar files; {shard} is no plain file. Remove it.")
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
        images: dict[str, Path] = {}
        labels: dict[str, int] = {}
        with tarfile.open(fileobj=headers, mode="r:") as archive:
            for member in archive:
                if member.size < 0:  # some versions of Python would go back, and on for ever
                    raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key = f"{folder}/{stem}"
                suffix = suffix.lower()
                if suffix in IMAGE_SUFFIXES:
                    if key in images:
                        raise DataError(
                            f"data: must have one image of every sample; {shard} has two of {key.lstrip('/')}."
                        )
                    images[key] = shard.relative_to(self._folder) / member.name.lstrip("/")
                    self._places[images[key]] = (number, member.offset_data, member.size)
                elif suffix == LABEL_SUFFIX:
                    if key in labels:
                        raise DataError(
                            f"data: must have one class index of every sample; {shard} has two of {key.lstrip('/')}."
                        )
                    labels[key] = _read_label(archive, member, shard)
        alone = sorted(images.keys() ^ labels.keys())
        if alone:
            raise DataError(
                f"data: must have an image and a .{LABEL_SUFFIX} of every sample; {shard} has {alone[0].lstrip('/')} "
                "with one of them only."
            )
        self.samples += [(name, labels[key]) for key, name in images.items()]


def _read_label(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> int:
    file = archive.extractfile(member)
    text = b"" if file is None or member.size > _LONGEST_LABEL else file.read()
    try:
        return int(text)
    except ValueError as error:
        raise DataError(
            f"data: must hold class indices as whole numbers; {member.name} in {shard} holds something else."
        ) from error


def open_shards(folder: Path) -> PackedSource:
    """Index the shards of a folder; see the top of this file.

    Raises:
        DataError: there is no such folder, or a shard cannot be used as it is.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise DataError(
            f"data: must be a folder of tar files; got {folder}, which {problem}. Write webdataset:DIR with "
            "that folder."
        )
    found = {}
    files = sorted(folder.iterdir())
    for name in ("train", "val", "test"):
        shards = _Shards(folder, [path for path in files if _is_shard(path.name, name)])
        found[name] = PackedSplit(shards.samples, shards.read, shards.file_of)
    advice = "Name tar files train-*.tar and test-*.tar, not compressed."
    return PackedSource(f"webdataset:{folder}", found, _class_names(folder, found), advice)


def _is_shard(name: str, split: str) -> bool:
    """Whether a file of this name is a shard of the split; its suffix may be in capitals."""
    return name.startswith(f"{split}-") and name.lower().endswith(".tar")


def _class_names(folder: Path, found: dict[str, PackedSplit]) -> list[str]:
    """Those of classes.txt, one a line; without it the numbers."""
    path = folder / "classes.txt"
    if path.is_file():
        with path.open("rb") as file:
            content = file.read(_LARGEST_NAMES + 1)
        if len(content) > _LARGEST_NAMES:
            raise DataError(f"data: {path} must have at most {_LARGEST_NAMES} bytes, a name of a class in each line.")
        try:
            return [line for line in content.decode("utf-8").splitlines() if line]
        except UnicodeDecodeError as error:
            raise DataError(f"data: {path} must be text in UTF-8, a name of a class in each line ({error}).") from error
    count = max((label for split in found.values() for _, label in split.samples), default=-1) + 1
    return [str(label) for label in range(count)]
