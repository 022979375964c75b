"""The stores of a frozen backbone: it runs once over every split, and all stages read its features from the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from protokern.config.train import TrainConfig
from protokern.errors import DataError, OtherProcessError, Stopped
from protokern.features import (
    FeatureStore,
    FeatureWriter,
    Fingerprint,
    Precision,
    fingerprint_of_files,
    fingerprint_of_weights,
)
from protokern.inputs.loaders import DataSplits, LabelledImages, StoredImages, training_loader
from protokern.inputs.sources import to_device
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.ranks import Ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureRecord:
    """A frozen backbone has done `done` of `images` images of a split; for progress bars, not logged."""

    split: str
    done: int
    images: int


@dataclass(frozen=True, slots=True)
class StoredSplits:
    """The stored features of the splits of a run, by their purpose; `train` and `push` read the same store."""

    train: StoredImages
    push: StoredImages
    val: StoredImages
    test: StoredImages
    notes: tuple[str, ...]


def open_stores(
    folder: Path,
    model: PrototypeModel,
    splits: DataSplits,
    config: TrainConfig,
    *,
    precision: Precision,
    workers: int,
    ranks: Ranks,
    should_stop: Callable[[], bool],
) -> Generator[FeatureRecord, None, StoredSplits]:
    """Open the stores of a run with a frozen backbone; what is missing is written first.

    Args:
        folder: of the stores, one for each split.
        model: on its device.
        splits: the images.
        config: of the training.
        precision: of the numbers in the stores.
        workers: processes that read images.
        ranks: each checks a part of every store.
        should_stop: asked before every batch.

    Returns:
        The stored features of the splits.

    Raises:
        DataError: a store is damaged, stale, or cannot be written.
        OtherProcessError: another rank found a store damaged or stale.
        Stopped: `should_stop()` was true; what was written stays.
    """
    weights = fingerprint_of_weights(model.backbone)
    stored = {}
    for name, images in by_store(splits).items():
        fingerprint = fingerprint_of_images(images, weights)
        place = folder / name
        if not FeatureStore.is_complete(place):
            writer = FeatureWriter(
                place, fingerprint, images=len(images), precision=precision, wait=lambda: _wait(should_stop)
            )
            yield from _write(writer, name, images, model, config.channels_last, workers, should_stop)
        stored[name] = StoredImages(_open_together(place, fingerprint, precision, ranks), images)
    return _as_splits(splits, stored, is_half=precision == config.precision == "bf16")


def by_store(splits: DataSplits) -> dict[str, LabelledImages]:
    """The images of every store, by its name."""
    return {"train": splits.push, "val": splits.val, "test": splits.test}


def _open_together(folder: Path, fingerprint: Fingerprint, precision: Precision, ranks: Ranks) -> FeatureStore:
    """The store, of which every rank checks a part; an error on one rank ends all ranks."""
    store, refusal = None, None
    try:
        store = FeatureStore.open(
            folder, fingerprint=fingerprint, precision=precision, checked_part=(ranks.rank, ranks.size)
        )
    except DataError as error:
        refusal = error
    if ranks.any(refusal is not None):
        raise refusal or OtherProcessError(f"another process has refused {folder}, and has said why")
    assert store is not None
    return store


def find_stores(
    folder: Path, model: PrototypeModel, splits: DataSplits, config: TrainConfig, *, precision: Precision
) -> StoredSplits | None:
    """The stores of a finished run, if its backbone was frozen and they exist and are of exactly these images.

    Arguments as in `open_stores`.

    Raises:
        DataError: a store is damaged.
    """
    stored: dict[str, StoredImages] = {}
    for name, images in by_store(splits).items():
        found = find_store(folder / name, model, images, config)
        if found is None:
            return None
        stored[name] = found
    return _as_splits(splits, stored, is_half=precision == config.precision == "bf16")


def find_store(folder: Path, model: PrototypeModel, images: LabelledImages, config: TrainConfig) -> StoredImages | None:
    """The features of `images` from `folder`; None if there are none, or only features of other images.

    Raises:
        DataError: the store is damaged.
    """
    if config.backbone != "frozen" or not FeatureStore.is_complete(folder):
        return None
    fingerprint = fingerprint_of_images(images, fingerprint_of_weights(model.backbone))
    return StoredImages(FeatureStore.open(folder), images) if FeatureStore.is_of(folder, fingerprint) else None


def _as_splits(splits: DataSplits, stored: dict[str, StoredImages], *, is_half: bool) -> StoredSplits:
    """The stored splits. With `is_half` the training features stay in bfloat16: under autocast the first layer would
    round them anyway."""
    push = stored["train"]
    train = StoredImages(push.store, push.images, torch.bfloat16 if is_half else torch.float32)
    return StoredSplits(train, push, stored["val"], stored["test"], splits.notes)


def fingerprint_of_images(images: LabelledImages, weights: str) -> Fingerprint:
    """The fingerprint of the features of these images, for a backbone with the fingerprint `weights`."""
    files = (
        (images.sample_name(index), images.labels[index], images.source_path(index)) for index in range(len(images))
    )
    return Fingerprint(weights=weights, transform=images.transform(), files=fingerprint_of_files(files))


def _write(
    writer: FeatureWriter,
    name: str,
    images: LabelledImages,
    model: PrototypeModel,
    channels_last: bool,
    workers: int,
    should_stop: Callable[[], bool],
) -> Iterator[FeatureRecord]:
    """Run the backbone over the images that the store does not have yet. A chunk is always the same batch."""
    backbone = model.backbone
    with writer:
        for batch, labels in training_loader(images, writer.missing(), workers, seed=0):
            _stop_if_asked(should_stop)
            with evaluating(backbone):
                features = backbone(to_device(batch, model.device, channels_last))
            writer.append(features, labels)
            yield FeatureRecord(split=name, done=writer.done, images=len(images))


def _wait(should_stop: Callable[[], bool]) -> None:
    _stop_if_asked(should_stop)
    time.sleep(0.2)


def _stop_if_asked(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise Stopped
