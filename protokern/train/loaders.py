"""Batches: shuffled ones that can start in the middle of an epoch, and plain ones in data-set order."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from protokern.features import FeatureStore

Batches = DataLoader[tuple[Tensor, Tensor]]


class LabelledImages(Protocol):
    """What training asks of a data set; `protokern.data` offers it."""

    labels: list[int]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    def sample_name(self, index: int) -> str: ...

    def source_path(self, index: int) -> Path | None: ...

    def transform(self) -> str: ...

    def set_epoch(self, epoch: int) -> None: ...


class StoredImages:
    """The features of a data set's images in their place: item = ((C, H, W) of the backbone, class index).

    Args:
        store: of these images.
        images: what the features are of.
    """

    def __init__(self, store: FeatureStore, images: LabelledImages) -> None:
        self.store = store
        self.images = images
        self.labels = images.labels

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.store.read([index])[0], self.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch, (B, C, H, W) and (B,); the loaders of this module take it as it is."""
        return self.store.read(indices), self.store.labels[indices]

    def sample_name(self, index: int) -> str:
        return self.images.sample_name(index)

    def source_path(self, index: int) -> Path | None:
        return self.images.source_path(index)

    def transform(self) -> str:
        return self.images.transform()

    def set_epoch(self, epoch: int) -> None:
        """Nothing: features are of un-augmented images."""


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

    A last batch of a single image joins the one before: batch norms cannot learn from one image.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_images).tolist()
    batches = [order[start : start + batch_size] for start in range(0, num_images, batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        single = batches.pop()
        batches[-1] += single
    return batches


def training_loader(dataset: LabelledImages, batches: Sequence[list[int]], workers: int, seed: int) -> Batches:
    """Load the given batches in the given order.

    The workers are seeded from `seed`, not from torch's generator: a loader made anew in the middle of an epoch would
    move that on, and what a model draws there (mixup, Gumbel noise, dropout) would not be what it draws without a stop.
    """
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=_workers_for(dataset, workers),
        worker_init_fn=_start_worker,
        collate_fn=_collate_for(dataset),
        generator=generator,
    )


def ordered_loader(dataset: LabelledImages, batch_size: int, workers: int) -> Batches:
    """Load a data set from first to last image."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=batch_size,
        num_workers=_workers_for(dataset, workers),
        worker_init_fn=_start_worker,
        collate_fn=_collate_for(dataset),
    )


def _workers_for(dataset: LabelledImages, workers: int) -> int:
    """Features are copied from memory: handing them from process to process would cost more than reading them."""
    return 0 if isinstance(dataset, StoredImages) else workers


def _collate_for(dataset: LabelledImages) -> Callable[[Any], Any]:
    return _as_it_is if isinstance(dataset, StoredImages) else default_collate


def _as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


def _start_worker(worker: int) -> None:
    """Seed Python and NumPy as torch already is; leave Ctrl-C, which a terminal sends to all, to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
