"""Batches: shuffled ones that can start in the middle of an epoch, and plain ones in data-set order."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from protokern.inputs.workers import ImageLoader
from protokern.models.base import Given
from protokern.ranks import SINGLE, Ranks

_GRACE = 30  # seconds; as long as torchrun and Kubernetes wait


class LabelledImages(Protocol):
    """What training needs of a data set; the data sets of `protokern.data` have it."""

    labels: list[int]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    def sample_name(self, index: int) -> str: ...

    def source_path(self, index: int) -> Path | None: ...

    def transform(self) -> str: ...

    def set_epoch(self, epoch: int) -> None: ...


class ShownImages(LabelledImages, Protocol):
    """Images that can also be shown as people see them."""

    def display_image(self, index: int) -> np.ndarray: ...


class ReadableMaps(Protocol):
    """Maps of a backbone with labels, read by position; a `FeatureStore` is such."""

    labels: Tensor

    def __len__(self) -> int: ...

    def read(self, index: Sequence[int], dtype: torch.dtype = ...) -> Tensor: ...


class StoredImages:
    """A data set of stored features instead of images: item = ((C, H, W) of the backbone, class index).

    Args:
        store: the features, such as a `FeatureStore`.
        images: the images that the features were computed from.
        dtype: of the features.
    """

    def __init__(self, store: ReadableMaps, images: LabelledImages, dtype: torch.dtype = torch.float32) -> None:
        self.store = store
        self.images = images
        self.dtype = dtype
        self.labels = images.labels

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.store.read([index], self.dtype)[0], self.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch, (B, C, H, W) and (B,); the loaders of this module take it as it is."""
        return self.store.read(indices, self.dtype), self.store.labels[indices]

    def sample_name(self, index: int) -> str:
        return self.images.sample_name(index)

    def source_path(self, index: int) -> Path | None:
        return self.images.source_path(index)

    def transform(self) -> str:
        return self.images.transform()

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: features are computed from un-augmented images."""


class DataSplits(Protocol):
    """The data sets of a run: augmented training images, the same un-augmented for the push, and the held-out ones."""

    @property
    def train(self) -> LabelledImages: ...

    @property
    def push(self) -> LabelledImages: ...

    @property
    def val(self) -> LabelledImages: ...

    @property
    def test(self) -> LabelledImages: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


def shuffled_batches(num_images: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Image indices of every batch of an epoch; the same for the same seed and epoch.

    A last batch of a single image is joined with the batch before it, because batch norms cannot learn from one image.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_images).tolist()
    batches = [order[start : start + batch_size] for start in range(0, num_images, batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        single = batches.pop()
        batches[-1] += single
    return batches


def training_loader(dataset: LabelledImages, batches: Sequence[list[int]], workers: int, seed: int) -> ImageLoader:
    """Load the given batches in the given order.

    The workers are seeded from `seed`, not from torch's generator. A resumed epoch makes a second loader, which would
    advance that generator and so change what the model draws from it (mixup, Gumbel noise, dropout).
    """
    generator = torch.Generator().manual_seed(seed)
    shape = dataset[0][0].shape if any(not batch for batch in batches) else None
    return ImageLoader(
        dataset,
        batch_sampler=batches,
        num_workers=_workers_for(dataset, workers),
        worker_init_fn=_start_worker,
        collate_fn=_collate_for(dataset, shape),
        generator=generator,
        given=given_of(dataset),
    )


def ordered_loader(dataset: LabelledImages, batch_size: int, workers: int, ranks: Ranks = SINGLE) -> ImageLoader:
    """Load a data set from first to last image; each of several ranks loads its part of the same batches."""
    starts = range(0, len(dataset), batch_size)
    batches = [list(range(start, min(start + batch_size, len(dataset)))) for start in ranks.part_of(starts)]
    return ImageLoader(
        dataset,
        batch_sampler=batches,
        num_workers=_workers_for(dataset, workers),
        worker_init_fn=_start_worker,
        collate_fn=_collate_for(dataset),
        given=given_of(dataset),
    )


def first_image(dataset: LabelledImages, batch_size: int, ranks: Ranks) -> int:
    """The first image that `ordered_loader` loads on this rank."""
    starts = ranks.part_of(range(0, len(dataset), batch_size))
    return starts[0] if starts else len(dataset)


def given_of(dataset: LabelledImages) -> Given:
    """What the items of a data set are: the argument `given` of `PrototypeModel.features`."""
    return "maps" if isinstance(dataset, StoredImages) else "images"


def _workers_for(dataset: LabelledImages, workers: int) -> int:
    """The number of worker processes; none for features, which cost less to read than to pass between processes."""
    return 0 if isinstance(dataset, StoredImages) else workers


def _collate_for(dataset: LabelledImages, shape: torch.Size | None = None) -> Callable[[Any], Any]:
    return _as_it_is if isinstance(dataset, StoredImages) else partial(_collate, shape=shape)


def _as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


def _collate(items: list[tuple[Tensor, int]], *, shape: torch.Size | None) -> tuple[Tensor, Tensor]:
    """Stack a batch; an empty batch gets the shape (0, C, Y, X) from `shape`."""
    if not items and shape is not None:
        return torch.zeros(0, *shape), torch.zeros(0, dtype=torch.int64)
    batch: tuple[Tensor, Tensor] = default_collate(items)
    return batch


def _start_worker(worker: int) -> None:
    """Seed Python and NumPy as torch is seeded, and leave signals to the main process.

    A terminal sends Ctrl-C to all processes, and some schedulers send SIGTERM to all, but the main process still needs
    images to finish its batch. SIGTERM only delays the end of a worker, because the main process also sends it to a
    worker that does not end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_GRACE))
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
