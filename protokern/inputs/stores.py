"""The stores of a frozen backbone: it runs once over every split, and all stages read its features from the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from protokern.backbones.fusing import FUSED, can_fuse, run_fused
from protokern.config.train import TrainConfig
from protokern.errors import DataError, OtherProcessError, Stopped
from protokern.features import (
    EAGER,
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
    arithmetic = FUSED if can_fuse(model.backbone) else EAGER
    stored = {}
    for name, images in by_store(splits).items():
        fingerprint = fingerprint_of_images(images, weights, arithmetic)
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


@dataclass(frozen=True, slots=True)
class FoundSplits:
    """What passes over the data of a finished run read: for every split its stored features, or else its images.

    Attributes:
        notes: for every split of a frozen backbone that is not read from a store: why the backbone runs again.
    """

    push: LabelledImages
    val: LabelledImages
    test: LabelledImages
    notes: tuple[str, ...]

    @property
    def train(self) -> LabelledImages:
        """The same as `push`: nothing is augmented after the training."""
        return self.push


def find_stores(folder: Path, model: PrototypeModel, splits: DataSplits, config: TrainConfig) -> FoundSplits:
    """The stores of a finished run as far as its backbone was frozen and they are of exactly these images.

    Args:
        folder: of the stores, one for each split.
        model: of the run.
        splits: the images.
        config: of the training.

    Raises:
        DataError: a store is damaged.
    """
    found, notes = {}, []
    for name, images in by_store(splits).items():
        found[name], note = find_store(folder / name, model, images, config)
        notes += [note] if note else []
    return FoundSplits(found["train"], found["val"], found["test"], tuple(notes))


def find_store(
    folder: Path, model: PrototypeModel, images: LabelledImages, config: TrainConfig
) -> tuple[LabelledImages, str]:
    """The features of `images` from `folder`, or the images themselves, and then why; no reason if nothing was stored.

    Raises:
        DataError: the store is damaged.
    """
    if config.backbone != "frozen":
        return images, ""
    again = "the backbone runs over the images again"
    if not FeatureStore.is_complete(folder):
        return images, f"{folder}: there are no complete stored features, so {again}"
    fingerprint = fingerprint_of_images(images, fingerprint_of_weights(model.backbone))
    store = FeatureStore.open(folder)
    differences = store.fingerprint.differences(fingerprint)
    if differences:
        return images, f"{folder}: the stored features are of other {' and '.join(differences)}, so {again}"
    return StoredImages(store, images), ""


def _as_splits(splits: DataSplits, stored: dict[str, StoredImages], *, is_half: bool) -> StoredSplits:
    """The stored splits. With `is_half` the training features stay in bfloat16: under autocast the first layer would
    round them anyway."""
    push = stored["train"]
    train = StoredImages(push.store, push.images, torch.bfloat16 if is_half else torch.float32)
    return StoredSplits(train, push, stored["val"], stored["test"], splits.notes)


def fingerprint_of_images(images: LabelledImages, weights: str, arithmetic: str = EAGER) -> Fingerprint:
    """The fingerprint of the features of these images, for a backbone with the fingerprint `weights`."""
    files = (
        (images.sample_name(index), images.labels[index], images.source_path(index)) for index in range(len(images))
    )
    return Fingerprint(
        weights=weights,
        transform=images.transform(),
        files=fingerprint_of_files(files),
        arithmetic=arithmetic,
    )


def _write(
    writer: FeatureWriter,
    name: str,
    images: LabelledImages,
    model: PrototypeModel,
    channels_last: bool,
    workers: int,
    should_stop: Callable[[], bool],
) -> Iterator[FeatureRecord]:
    """Run the backbone over the images that the store does not have yet. A chunk is always the same batch.

    A store that another arithmetic began is finished in it.
    """
    backbone = model.backbone
    with writer:
        is_fused = writer.arithmetic == FUSED
        for batch, labels in training_loader(images, writer.missing(), workers, seed=0):
            _stop_if_asked(should_stop)
            on_device = to_device(batch, model.device, channels_last)
            with evaluating(backbone):
                features = run_fused(backbone, on_device) if is_fused else backbone(on_device)
            writer.append(features, labels)
            yield FeatureRecord(split=name, done=writer.done, images=len(images))


def _wait(should_stop: Callable[[], bool]) -> None:
    _stop_if_asked(should_stop)
    time.sleep(0.2)


def _stop_if_asked(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise Stopped
