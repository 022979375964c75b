"""Batches: shuffled ones that can start in the middle of an epoch, and plain ones in data-set order."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

Batches = DataLoader[tuple[Tensor, Tensor]]


class LabelledImages(Protocol):
    """What training asks of a data set; `protokern.data` offers it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    def sample_name(self, index: int) -> str: ...

    def set_epoch(self, epoch: int) -> None: ...


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
        num_workers=workers,
        worker_init_fn=_start_worker,
        generator=generator,
    )


def ordered_loader(dataset: LabelledImages, batch_size: int, workers: int) -> Batches:
    """Load a data set from first to last image."""
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers, worker_init_fn=_start_worker)  # type: ignore[arg-type]


def _start_worker(worker: int) -> None:
    """Seed Python and NumPy as torch already is; leave Ctrl-C, which a terminal sends to all, to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
