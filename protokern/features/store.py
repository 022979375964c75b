"""Reading a store: batches in order, at given images, or class by class."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from protokern.errors import DataError
from protokern.features.fingerprint import Fingerprint
from protokern.features.layout import (
    ADVICE,
    DTYPES,
    FEATURES,
    HEADER,
    WHOLE,
    Layout,
    Precision,
    Records,
    check_features,
    read_layout,
    read_records,
)


class FeatureStore:
    """The features of one data set. Opened by `FeatureStore.open`; written by `FeatureWriter`.

    Batches are copies, float32 by default, with shape (B, C, H, W) and in channels-last memory, which convolutions
    prefer. They are read from the file as they are asked for, so memory use does not grow with the store.

    Attributes:
        path: the folder.
        labels: (N,) int64, as they were when the store was written.
        shape: (C, H, W) of an image's features.
        precision: of the stored numbers, "fp32" or "bf16".
        fingerprint: what the features depend on.
    """

    def __init__(self, path: Path, layout: Layout, records: Records) -> None:
        self.path = path
        self.labels = torch.from_numpy(records.labels)
        self.shape = layout.shape
        self.precision = layout.precision
        self.fingerprint = layout.fingerprint
        self._layout = layout
        self._file = os.open(path / FEATURES, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        fingerprint: Fingerprint | None = None,
        precision: Precision | None = None,
        checked_part: tuple[int, int] = (0, 1),
    ) -> FeatureStore:
        """Open a complete store after reading all of it once, to compare every chunk with its checksum.

        Args:
            path: the folder.
            fingerprint: what the features must depend on; None: anything.
            precision: required precision of the numbers; None: either.
            checked_part: (n, of): check only the n-th of that many parts, for processes that open a store together.

        Raises:
            DataError: there is no store, or it is incomplete, damaged, or of other weights, another transform or other
                files.
        """
        folder = Path(path)
        layout = read_layout(folder)
        if layout is None:
            raise DataError(f"{folder}: must be a feature store; it has no {HEADER}. Check the path.")
        check_fresh(folder, layout, fingerprint, precision)
        if not layout.is_complete:
            raise DataError(f"{folder}: must be a complete feature store; its writer was stopped. Go on writing it.")
        records = read_records(folder, layout)
        check_features(folder, layout, records, checked_part)
        return cls(folder, layout, records)

    @staticmethod
    def is_complete(path: Path | str) -> bool:
        """Whether there is a complete store; only its header is read."""
        layout = read_layout(Path(path))
        return layout is not None and layout.is_complete

    @staticmethod
    def is_of(path: Path | str, fingerprint: Fingerprint) -> bool:
        """Whether there is a store, complete or not, with this fingerprint, in any arithmetic."""
        layout = read_layout(Path(path))
        return layout is not None and not layout.fingerprint.differences(fingerprint)

    def __len__(self) -> int:
        return self._layout.images

    def read(self, index: Sequence[int] | Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The features of some images, (B, C, H, W) of `dtype` for `index` (B,), each of 0 .. N - 1.

        Raises:
            ValueError: the store has no such image.
            DataError: the file has become shorter, or cannot be read.
        """
        return self._read(self._check_index(index).tolist(), dtype)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(features, labels) of all images in the order of the data set."""
        _check_batch_size(batch_size)
        for start in range(0, len(self), batch_size):
            index = range(start, min(start + batch_size, len(self)))
            yield self._read(index, torch.float32), self.labels[start : start + batch_size]

    def batches_at(self, batches: Iterable[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(features, labels, index (B,) int64) for lists of images, for instance shuffled ones."""
        for batch in batches:
            index = self._check_index(batch)
            yield self.read(index), self.labels[index], index

    def batches_by_class(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """As `batches_at`, class after class, the images of each in order; no batch has images of two classes."""
        _check_batch_size(batch_size)
        order = np.argsort(self.labels.numpy(), kind="stable")
        ends = np.flatnonzero(np.diff(self.labels.numpy()[order])) + 1
        of_class = np.split(order, ends)
        return self.batches_at(
            images[start : start + batch_size].tolist()
            for images in of_class
            for start in range(0, len(images), batch_size)
        )

    def _check_index(self, index: Sequence[int] | Tensor) -> Tensor:
        """The index as int64 (B,)."""
        chosen = torch.as_tensor(index)
        is_sound = chosen.ndim == 1 and (
            len(chosen) == 0 or (chosen.dtype in WHOLE and int(chosen.min()) >= 0 and int(chosen.max()) < len(self))
        )
        if not is_sound:
            values = str(chosen.tolist())
            shown = values if len(values) <= 60 else f"{values[:60]} ..."
            raise ValueError(
                f"index: must be a list of whole numbers of 0 .. {len(self) - 1}; got {shown} ({chosen.dtype}). "
                "Count images from 0."
            )
        return chosen.to(torch.int64)

    def _read(self, index: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The features (B, C, H, W) of some images; neighbours in the file are read together."""
        channels, height, width = self.shape
        rows = torch.empty(len(index), height, width, channels, dtype=DTYPES[self.precision])
        content = rows.flatten().view(torch.uint8).numpy().data
        size, first = self._layout.image_bytes, 0
        for end in range(1, len(index) + 1):
            if end == len(index) or index[end] != index[end - 1] + 1:
                self._fill(content[first * size : end * size], index[first] * size)
                first = end
        return rows.to(dtype).permute(0, 3, 1, 2)

    def _fill(self, content: memoryview, offset: int) -> None:
        """Read from the file at `offset` until `content` is full."""
        while content:
            try:
                count = os.preadv(self._file, [content], offset)
            except OSError as error:
                raise DataError(f"{self.path / FEATURES}: cannot be read ({error.strerror}).") from error
            if not count:
                raise DataError(f"{self.path / FEATURES}: has become shorter since it was opened. {ADVICE}")
            content, offset = content[count:], offset + count


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1; got {batch_size}. Give the images of a batch.")


def check_fresh(path: Path, layout: Layout, fingerprint: Fingerprint | None, precision: Precision | None) -> None:
    """Raise a DataError unless the store is the wanted one; the message says in one line what differs."""
    differences = [] if fingerprint is None else layout.fingerprint.differences(fingerprint)
    if differences:
        assert fingerprint is not None
        words = {
            "weights": "other weights of the backbone",
            "transform": f"another transform ({layout.fingerprint.transform}; wanted: {fingerprint.transform})",
            "files": "other files (names, labels, sizes or times of change)",
        }
        raise DataError(f"{path}: is stale: made of {' and '.join(words[name] for name in differences)}. {ADVICE}")
    if precision is not None and layout.precision != precision:
        raise DataError(f"{path}: must hold features in {precision}; it holds them in {layout.precision}. {ADVICE}")
