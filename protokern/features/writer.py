"""Writing a store, chunk by chunk, so that a killed writer can be continued."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from protokern.errors import DataError
from protokern.features.fingerprint import Fingerprint
from protokern.features.layout import (
    CHUNK_IMAGES,
    CHUNKS,
    DTYPES,
    FEATURES,
    HEADER,
    LARGEST_LABEL,
    LOCK,
    WHOLE,
    Layout,
    Precision,
    check_features,
    chunk_checksum,
    completed,
    make_record,
    read_layout,
    read_records,
    write_layout,
)
from protokern.features.store import check_fresh
from protokern.storage.files import translate_write_errors, write_at
from protokern.storage.lock import open_lock, take_lock


def _wait_a_moment() -> None:
    time.sleep(0.2)


class FeatureWriter:
    """Writes the features of a data set into a folder, or the rest of them; a context manager.

    One process writes at a time: the others wait, and find the store complete. What was written before is first
    compared with its checksums.

        with FeatureWriter("features/train", fingerprint, images=len(dataset)) as writer:
            for images in writer.missing():
                features, labels = ...  # (B, C, H, W) and (B,)
                writer.append(features, labels)

    Args:
        path: the folder; created if it is missing.
        fingerprint: what the features depend on.
        images: in the data set, at least 1.
        precision: of the stored numbers, "fp32" or "bf16".
        wait: called repeatedly while another process writes.

    Attributes:
        done: images that are written.
        arithmetic: what the rest must be computed with: that of the fingerprint, or of what was written before.

    Raises:
        DataError: the folder holds something else, a damaged store, or one of other weights, another transform or other
            files; nothing of it was changed. Or the disk is full or not writable.
    """

    def __init__(
        self,
        path: Path | str,
        fingerprint: Fingerprint,
        *,
        images: int,
        precision: Precision = "fp32",
        wait: Callable[[], None] = _wait_a_moment,
    ) -> None:
        if images < 1:
            raise ValueError(f"images: must be at least 1; got {images}. Give a data set with images.")
        if precision not in DTYPES:
            raise ValueError(f"precision: must be one of {', '.join(DTYPES)}; got {precision!r}. Choose one.")
        self.path = Path(path)
        self.done = 0
        self.arithmetic = fingerprint.arithmetic
        self._fingerprint, self._images, self._precision, self._wait = fingerprint, images, precision, wait
        self._layout: Layout | None = None
        self._lock: int | None = None

    def __enter__(self) -> Self:
        check_store_place(self.path)  # before anything is written into a folder with other content
        with _translate_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open_lock(self.path / LOCK)
        try:
            while not self._takes_lock():
                self._wait()
            self._take_up()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        os.close(self._lock)  # and with it the lock

    @property
    def next_images(self) -> int:
        """Number of images that the next `append` must have; 0 if all are there."""
        return min(self._chunk_images, self._images - self.done)

    @property
    def _chunk_images(self) -> int:
        return CHUNK_IMAGES if self._layout is None else self._layout.chunk_images

    def missing(self) -> list[list[int]]:
        """The images that are not written yet, in the batches that `append` takes."""
        size = self._chunk_images
        return [list(range(start, min(start + size, self._images))) for start in range(self.done, self._images, size)]

    def append(self, features: Tensor, labels: Tensor) -> None:
        """Write the features (B, C, H, W) and labels (B,) of the next images; they are on the disk afterwards.

        Raises:
            ValueError: not `next_images` images, features of another shape than before, or labels that are not class
                indices.
            DataError: the disk is full or not writable; what was written before is complete.
        """
        shape = tuple(features.shape[1:])
        if len(features) != self.next_images or len(labels) != self.next_images or len(shape) != 3 or 0 in shape:
            raise ValueError(
                f"features: must be (B, C, H, W) of the next {self.next_images} images; "
                f"got {tuple(features.shape)} and {len(labels)} labels. See next_images."
            )
        classes = _check_labels(labels)
        layout = self._layout or self._new_layout(shape)
        if shape != layout.shape:
            raise ValueError(
                f"features: must have the shape {layout.shape} of the images before; got {shape}. "
                "Give images of one size."
            )
        rows = features.detach().permute(0, 2, 3, 1).to("cpu", DTYPES[layout.precision]).contiguous()
        content = rows.flatten().view(torch.uint8).numpy().data
        chunk = self.done // layout.chunk_images
        record = make_record(classes, chunk_checksum(content, chunk), chunk, layout)
        with _translate_errors(self.path):
            write_at(self.path / FEATURES, self.done * layout.image_bytes, content)
            write_at(self.path / CHUNKS, chunk * layout.record_bytes, memoryview(record))
            self.done += len(features)
            if self.done == self._images:
                write_layout(self.path, completed(layout))

    def _takes_lock(self) -> bool:
        assert self._lock is not None
        try:
            return take_lock(self._lock)
        except OSError as error:
            raise DataError(
                f"{self.path}: could not be locked ({error.strerror}). Give a folder on a file system with locks."
            ) from error

    def _take_up(self) -> None:
        """Continue with what is already there."""
        layout = check_store_place(self.path)
        for leftover in self.path.glob(f".{HEADER}.*.tmp"):  # of a writer that was killed
            leftover.unlink()
        if layout is None:
            return
        check_fresh(self.path, layout, self._fingerprint, self._precision)
        if layout.images != self._images:
            raise DataError(f"{self.path}: must be of {self._images} images; it is of {layout.images}.")
        records = read_records(self.path, layout)
        check_features(self.path, layout, records)
        self._layout, self.done = layout, len(records.labels)
        self.arithmetic = layout.fingerprint.arithmetic
        if self.done == self._images and not layout.is_complete:  # killed just before the last write
            write_layout(self.path, completed(layout))

    def _new_layout(self, shape: tuple[int, ...]) -> Layout:
        channels, height, width = shape
        layout = Layout(
            images=self._images,
            shape=(channels, height, width),
            precision=self._precision,
            fingerprint=self._fingerprint,
        )
        with _translate_errors(self.path):
            write_layout(self.path, layout)
        self._layout = layout
        return layout


def check_store_place(path: Path) -> Layout | None:
    """The header of the store in `path`; None if the folder is empty or missing.

    Raises:
        DataError: something else is there, or a store that is damaged or unreadable.
    """
    with _translate_errors(path):
        if path.exists() and not path.is_dir():
            raise DataError(f"{path}: must be a folder; it is a file. Give another folder.")
        names = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    layout = read_layout(path)
    strangers = [name for name in names if name != LOCK and not name.startswith(f".{HEADER}.")]
    if layout is None and strangers:
        raise DataError(
            f"{path}: must be empty or a feature store; it holds {', '.join(strangers[:3])}. Give another folder."
        )
    return layout


def _check_labels(labels: Tensor) -> np.ndarray:
    """The labels (B,) as NumPy integers that fit into a record."""
    got = ""
    if labels.ndim != 1 or labels.dtype not in WHOLE:
        got = f"{labels.dtype} of shape {tuple(labels.shape)}"
    elif len(labels) and (int(labels.min()) < 0 or int(labels.max()) > LARGEST_LABEL):
        got = f"{int(labels.min())} .. {int(labels.max())}"
    if got:
        raise ValueError(
            f"labels: must be {len(labels)} class indices of 0 .. {LARGEST_LABEL}; got {got}. "
            "Give one whole number an image."
        )
    return labels.cpu().numpy()


def _translate_errors(path: Path) -> AbstractContextManager[None]:
    """Turn a disk error (full, read-only, over quota) into one line that names the store."""
    return translate_write_errors(
        path,
        error=DataError,
        what="the features could not be written",
        go_on="go on, or give another folder",
        or_else="Give another folder",
    )
