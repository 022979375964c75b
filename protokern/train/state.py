"""A training in the making: everything it works on, how it is saved, and how it is taken up again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from protokern.config.train import PruneConfig, TrainConfig
from protokern.errors import CheckpointError, ProtokernError
from protokern.features import Precision, fingerprint_of_files
from protokern.inputs.loaders import DataSplits
from protokern.inputs.sources import FrozenSplits
from protokern.models.base import PrototypeModel
from protokern.push import PushResult
from protokern.ranks import SINGLE, Ranks
from protokern.runs.checkpoint_index import checkpoint_folder
from protokern.runs.checkpoints import (
    RESUME_FILE,
    Checkpoint,
    CheckpointState,
    find_resumable,
    read_checkpoint,
    save_checkpoint,
    size_in_bytes,
)
from protokern.runs.log import LoggedRecord, append_record, truncate_log
from protokern.runs.progress import Progress, load_optimizer, load_random, optimizer_tensors, random_tensors
from protokern.train.live import LivePrototypes
from protokern.train.optimizers import make_optimizer


@dataclass(kw_only=True)
class TrainingRun:
    """Everything a training works on.

    Attributes:
        folder: the run folder; exists.
        model: on its device.
        splits: the data.
        classes: class names.
        config: the whole configuration as tables, for the checkpoints.
        train: how to train.
        prune: whether and how to prune.
        workers: processes that read images, of each rank.
        feature_store: folder of the features of a frozen backbone; None: inside the run folder.
        feature_precision: of the numbers there.
        stored: the splits as the frozen backbone sees them, once they are opened.
        ranks: the processes that train together; the first one writes.
        should_stop: asked after every batch; True ends the training with a checkpoint.
        progress: where the training stands.
        push: where the prototypes come from, after a push.
        live: the patches that the prototypes are, in a live stage that has begun.
        optimizer: of the warm, joint, hardening or live stage, once it has begun.
        forward: the training's forward pass, once it has begun.
        frozen: features of the data sets while the backbone stands still.
        last_checkpoint: the newest checkpoint's folder.
    """

    folder: Path
    model: PrototypeModel
    splits: DataSplits
    classes: tuple[str, ...]
    config: dict[str, Any]
    train: TrainConfig
    prune: PruneConfig
    workers: int = 0
    feature_store: Path | None = None
    feature_precision: Precision = "fp32"
    stored: DataSplits | None = None
    ranks: Ranks = SINGLE
    should_stop: Callable[[], bool] = lambda: False
    progress: Progress = field(default_factory=Progress)
    push: PushResult | None = None
    live: LivePrototypes | None = None
    optimizer: torch.optim.Optimizer | None = None
    forward: nn.Module | None = None
    frozen: FrozenSplits | None = None
    last_checkpoint: Path | None = None

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    @property
    def inputs(self) -> DataSplits:
        """What the model is trained and measured on: the images, or what a frozen backbone gave for them."""
        return self.stored or self.splits

    @property
    def feature_folder(self) -> Path:
        """Where the stores of a frozen backbone are: one folder for each split."""
        return self.feature_store or self.folder / "features"

    @property
    def log_path(self) -> Path:
        """Where the log is."""
        return self.folder / "log.jsonl"


def log_records(run: TrainingRun, records: Iterable[LoggedRecord]) -> None:
    """Append to the log, and count the lines for a resumed run."""
    for record in records:
        if run.ranks.is_first:
            append_record(run.log_path, record)
        run.progress.log_lines += 1


def cut_log(run: TrainingRun, num_lines: int) -> None:
    """Keep the first lines of the log: a resumed run writes again what came after its checkpoint."""
    if run.ranks.is_first:
        truncate_log(run.log_path, num_lines)


def save_progress(run: TrainingRun, name: str) -> None:
    """Write a checkpoint from which training can go on; under a name that is taken it gets a number behind it.

    Of several ranks the first one writes, and the others wait until it is there.
    """
    if run.ranks.is_first:
        run.last_checkpoint = _write_progress(run, name)
    run.ranks.wait()
    if not run.ranks.is_first:
        run.last_checkpoint = find_resumable(run.folder)


def _write_progress(run: TrainingRun, name: str) -> Path:
    progress = run.progress
    stage, _, _ = name.partition("-")
    tensors = random_tensors(run.device)
    if run.optimizer is not None:
        tensors |= optimizer_tensors(run.optimizer, run.model)
    return save_checkpoint(
        run.folder,
        name,
        run.model,
        CheckpointState(
            config=run.config,
            classes=run.classes,
            stage=stage,
            epoch=progress.epoch,
            push=run.push,
            progress=progress.to_table(),
        ),
        resume=tensors,
        keep=[best.checkpoint for best in (progress.best_joint, progress.best_live) if best is not None],
    )


def resume_run(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Put `run`, made with the same configuration, where it was when `checkpoint` was written.

    Raises:
        CheckpointError: the checkpoint is broken, or the data or the model are not the run's.
    """
    state, folder = checkpoint.state, checkpoint.folder
    if state.progress is None:
        raise CheckpointError(f"{folder}: must be a checkpoint of a training to resume; another command wrote it.")
    try:
        progress = Progress.from_table(state.progress)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder}: must say where the training stands; it is broken ({error}).") from error
    _check_data(run, state, progress)
    run.progress, run.push, run.last_checkpoint = progress, state.push, folder
    run.frozen = None
    checkpoint.load_weights(run.model)
    with _translate_broken_states(checkpoint):
        states = _read_states(run, checkpoint)
        _restore_optimizer(run, states)
        load_random(states, run.device)
    cut_log(run, progress.log_lines)


def _check_data(run: TrainingRun, state: CheckpointState, progress: Progress) -> None:
    images = count_images(run.splits)
    if progress.images and (state.classes != run.classes or progress.images != images):
        raise CheckpointError(
            f"data: must be that of the run to resume it, {progress.images} images of {len(state.classes)} classes; "
            f"got {images} of {len(run.classes)}. Give the same folder, or start a new run."
        )
    names = name_images(run.splits)
    other = [split for split, name in names.items() if progress.names.get(split, name) != name]
    if other:
        raise CheckpointError(
            f"data: must be that of the run to resume it; got as many images, but of other names or classes in "
            f"{', '.join(other)}. Give the same folder, or start a new run."
        )


def restore_weights(run: TrainingRun, name: str) -> None:
    """Take the weights, and the optimizer with its state where there is one, from the checkpoint `name` of this run."""
    checkpoint = read_own_checkpoint(run, name)
    run.frozen = None
    checkpoint.load_weights(run.model)
    with _translate_broken_states(checkpoint):
        _restore_optimizer(run, {} if run.progress.optimizer_stage is None else _read_states(run, checkpoint))


def _restore_optimizer(run: TrainingRun, states: Mapping[str, Tensor]) -> None:
    run.optimizer = None
    if run.progress.optimizer_stage is not None:
        run.optimizer = make_optimizer(run.model, run.progress.optimizer_stage, run.train)
        load_optimizer(run.optimizer, run.model, states)


def _read_states(run: TrainingRun, checkpoint: Checkpoint) -> dict[str, Tensor]:
    # Adam has two tensors for every one that learns.
    return checkpoint.read_tensors(RESUME_FILE, at_most=3 * size_in_bytes(run.model))


@contextmanager
def _translate_broken_states(checkpoint: Checkpoint) -> Iterator[None]:
    try:
        yield
    except ProtokernError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(
            f"{checkpoint.folder / RESUME_FILE}: must hold the states of the optimizer and the generators; it is "
            f"broken ({reason})."
        ) from error


def read_own_checkpoint(run: TrainingRun, name: str) -> Checkpoint:
    """The checkpoint `name` of this run."""
    return read_checkpoint(checkpoint_folder(run.folder, name))


def count_images(splits: DataSplits) -> dict[str, int]:
    """Images in each split."""
    return {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}


def name_images(splits: DataSplits) -> dict[str, str]:
    """A fingerprint of the names and classes of each split's images; where they are and what is in them is left out."""
    return {
        split: fingerprint_of_files((images.sample_name(one), images.labels[one], None) for one in range(len(images)))
        for split, images in (("train", splits.train), ("val", splits.val), ("test", splits.test))
    }
