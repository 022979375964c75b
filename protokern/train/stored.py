"""Training on a frozen backbone: it runs once over every split, and all stages read what it gave from the disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from protokern.config.train import TrainConfig
from protokern.errors import DataError, OtherProcessError
from protokern.features import (
    FeatureStore,
    FeatureWriter,
    Fingerprint,
    fingerprint_of_files,
    fingerprint_of_weights,
)
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.train.frozen import to_device
from protokern.train.loaders import LabelledImages, StoredImages, training_loader
from protokern.train.records import FeatureRecord
from protokern.train.run import TrainingRun


@dataclass(frozen=True, slots=True)
class StoredSplits:
    """The splits of a run as its backbone sees them, by what they are for; `train` and `push` read one store."""

    train: StoredImages
    push: StoredImages
    val: StoredImages
    test: StoredImages
    notes: tuple[str, ...]


@contextmanager
def taking_stored_maps(model: PrototypeModel, is_frozen: bool) -> Iterator[None]:
    """Within the block, and if `is_frozen`, the model takes what its backbone gave in place of images."""
    model.takes_stored_maps = is_frozen
    try:
        yield
    finally:
        model.takes_stored_maps = False


def feature_folder(run: TrainingRun) -> Path:
    """Where the stores of a run are: one folder for each split."""
    return run.feature_store or run.folder / "features"


def notes_on_stores(run: TrainingRun) -> tuple[str, ...]:
    """What a person should know about a run on a frozen backbone; nothing about another one."""
    if run.train.backbone != "frozen":
        return ()
    where = feature_folder(run)
    return (f"the backbone is frozen: all stages read its features of the un-augmented images from {where}",)


def open_stores(run: TrainingRun) -> Iterator[FeatureRecord]:
    """Open the stores of a run, after writing what is missing of them; `run.stored` has them afterwards.

    Raises:
        DataError: a store is damaged, stale, or cannot be written.
        OtherProcessError: another rank has found it so.
        KeyboardInterrupt: `run.should_stop()` said so; what was written stays.
    """
    weights = fingerprint_of_weights(run.model.backbone)
    images = {"train": run.splits.push, "val": run.splits.val, "test": run.splits.test}
    stored = {}
    for name, split in images.items():
        fingerprint = fingerprint_of_images(split, weights)
        folder = feature_folder(run) / name
        if not FeatureStore.is_complete(folder):
            yield from _write(run, folder, name, split, fingerprint)
        stored[name] = StoredImages(_open_together(run, folder, fingerprint), split)
    run.stored = _as_splits(run, stored)


def _open_together(run: TrainingRun, folder: Path, fingerprint: Fingerprint) -> FeatureStore:
    """The store, of which every rank has checked a part; all ranks end here when one of them refuses it."""
    part = (run.ranks.rank, run.ranks.size)
    store, refusal = None, None
    try:
        store = FeatureStore.open(folder, fingerprint=fingerprint, precision=run.feature_precision, checked_part=part)
    except DataError as error:
        refusal = error
    if run.ranks.any(refusal is not None):
        raise refusal or OtherProcessError(f"another process has refused {folder}, and has said why")
    assert store is not None
    return store


def find_stores(run: TrainingRun) -> StoredSplits | None:
    """The stores of a finished run, if its backbone was frozen and they are there, of just these images.

    Raises:
        DataError: a store is damaged.
    """
    images = {"train": run.splits.push, "val": run.splits.val, "test": run.splits.test}
    stored: dict[str, StoredImages] = {}
    for name, split in images.items():
        found = find_store(feature_folder(run) / name, run.model, split, run.train)
        if found is None:
            return None
        stored[name] = found
    return _as_splits(run, stored)


def find_store(folder: Path, model: PrototypeModel, images: LabelledImages, config: TrainConfig) -> StoredImages | None:
    """The features of `images` from `folder`; None where there are none, or those of something else.

    Raises:
        DataError: the store is damaged.
    """
    if config.backbone != "frozen" or not FeatureStore.is_complete(folder):
        return None
    fingerprint = fingerprint_of_images(images, fingerprint_of_weights(model.backbone))
    return StoredImages(FeatureStore.open(folder), images) if FeatureStore.is_of(folder, fingerprint) else None


def _as_splits(run: TrainingRun, stored: dict[str, StoredImages]) -> StoredSplits:
    push = stored["train"]
    # Under autocast the first layer would round to bfloat16 anyway: what is stored so goes there as it is.
    is_half = run.feature_precision == run.train.precision == "bf16"
    train = StoredImages(push.store, push.images, torch.bfloat16 if is_half else torch.float32)
    return StoredSplits(train, push, stored["val"], stored["test"], run.splits.notes)


def fingerprint_of_images(images: LabelledImages, weights: str) -> Fingerprint:
    """What the features of these images depend on, for a backbone with the fingerprint `weights`."""
    files = (
        (images.sample_name(index), images.labels[index], images.source_path(index)) for index in range(len(images))
    )
    return Fingerprint(weights=weights, transform=images.transform(), files=fingerprint_of_files(files))


def _write(
    run: TrainingRun, folder: Path, name: str, images: LabelledImages, fingerprint: Fingerprint
) -> Iterator[FeatureRecord]:
    """Run the backbone over the images that the store does not have yet. Every chunk is one batch, always the same."""

    def wait() -> None:
        _stop_if_asked(run)
        time.sleep(0.2)

    count, backbone = len(images), run.model.backbone
    with FeatureWriter(folder, fingerprint, images=count, precision=run.feature_precision, wait=wait) as writer:
        for batch, labels in training_loader(images, writer.missing(), run.workers, seed=0):
            _stop_if_asked(run)
            with evaluating(backbone):
                features = backbone(to_device(batch, run.device, run.train.channels_last))
            writer.append(features, labels)
            yield FeatureRecord(split=name, done=writer.done, images=count)


def _stop_if_asked(run: TrainingRun) -> None:
    if run.should_stop():
        raise KeyboardInterrupt
