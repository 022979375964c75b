"""A training: the job, which is fixed, and the state, which changes; how it starts, is saved and resumes.

Only this file and `protokern.runs.progress` assign fields of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from protokern.config.train import PruneConfig, TrainConfig
from protokern.errors import CheckpointError
from protokern.features import Precision
from protokern.inputs.loaders import DataSplits, given_of, ordered_loader
from protokern.inputs.sources import FrozenSplits
from protokern.inputs.stores import FeatureRecord, open_stores
from protokern.models.base import PrototypeModel
from protokern.push import PushResult
from protokern.ranks import SINGLE, Ranks
from protokern.results.stages import Stage
from protokern.runs.checkpoint_index import checkpoint_folder
from protokern.runs.checkpoints import (
    RESUME_FILE,
    Checkpoint,
    CheckpointState,
    find_resumable,
    read_checkpoint,
    save_checkpoint,
    size_in_bytes,
    translate_broken_states,
)
from protokern.runs.log import LoggedRecord, Notice, StageRecord, append_record, to_table, truncate_log
from protokern.runs.progress import Best, Progress, load_optimizer, load_random, optimizer_tensors, random_tensors
from protokern.train.forbidden import ForbiddenPatches, ForbiddenPlaces
from protokern.train.live import LivePrototypes
from protokern.train.optimizers import make_optimizer
from protokern.train.stages import Step
from protokern.train.step import BatchLoss, make_forward


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is fixed in a training: its data and settings. Only the weights inside `model` change.

    Attributes:
        folder: the run folder, which exists.
        model: on its device.
        splits: the data.
        classes: class names.
        config: the whole configuration as tables, for the checkpoints.
        train: how to train.
        prune: whether and how to prune.
        workers: number of processes that read images, per rank.
        feature_store: folder of the features of a frozen backbone; None: inside the run folder.
        feature_precision: precision of the stored features.
        forbidden: patches that no prototype may be; None: none are forbidden.
        ranks: the processes that train together; the first one writes.
        should_stop: asked after every batch; True ends the training with a checkpoint.
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
    forbidden: ForbiddenPlaces | None = None
    ranks: Ranks = SINGLE
    should_stop: Callable[[], bool] = lambda: False

    @property
    def feature_folder(self) -> Path:
        """The folder of the stores of a frozen backbone, one folder per split inside."""
        return self.feature_store or self.folder / "features"

    @property
    def log_path(self) -> Path:
        """The path of the log."""
        return self.folder / "log.jsonl"


def plan_of(job: Job) -> tuple[Step, ...]:
    """All steps of a job in order."""
    return job.model.stages(job.train, job.prune)


class TrainingRun:
    """A job and its state. Other files read the fields and call the methods; they assign no field.

    Attributes:
        job: what is fixed.
        progress: how far the training is, as stored in checkpoints.
        push: where the prototypes come from; None before a push.
        optimizer: of the warm, joint, hardening or live stage, once it has begun.
        last_checkpoint: the newest checkpoint's folder.
    """

    def __init__(self, job: Job, *, progress: Progress | None = None, push: PushResult | None = None) -> None:
        self.job = job
        self.progress = progress or Progress()
        self.push = push
        self.optimizer: torch.optim.Optimizer | None = None
        self.last_checkpoint: Path | None = None
        self._stored: DataSplits | None = None
        self._forward: nn.Module | None = None
        self._frozen: FrozenSplits | None = None
        self._live: LivePrototypes | None = None
        self._forbidden: ForbiddenPatches | None = None

    @classmethod
    def of_trained(cls, job: Job, inputs: DataSplits, *, epoch: int, push: PushResult | None) -> TrainingRun:
        """A finished run, for another push or pruning. It writes no files.

        Args:
            job: with the trained model.
            inputs: its images, or what a frozen backbone gave for them, see `protokern.runs.features`.
            epoch: the epoch of its weights.
            push: where its prototypes come from.
        """
        run = cls(job, progress=Progress(epoch=epoch), push=push)
        run._stored = inputs
        return run

    @property
    def model(self) -> PrototypeModel:
        """The model of the job."""
        return self.job.model

    @property
    def inputs(self) -> DataSplits:
        """The inputs for training and evaluation: the images, or a frozen backbone's features of them."""
        return self._stored or self.job.splits

    @property
    def forward(self) -> nn.Module:
        """The forward pass of the training, one for the whole run."""
        if self._forward is None:
            self._forward = make_forward(self.model, self.job.train, given_of(self.inputs.train))
        return self._forward

    @property
    def frozen(self) -> FrozenSplits:
        """The features of all images with the present weights."""
        job = self.job
        if self._frozen is None:
            self._frozen = FrozenSplits.make(
                job.model,
                *(
                    ordered_loader(split, job.train.batch_size, job.workers, job.ranks)
                    for split in (self.inputs.push, self.inputs.val, self.inputs.test)
                ),
                channels_last=job.train.channels_last,
                limit=job.train.feature_cache_mb * 2**20,
                should_stop=job.should_stop,
            )
        return self._frozen

    @property
    def live(self) -> LivePrototypes:
        """The patches that the prototypes are, in a live stage."""
        if self._live is None:
            assert self.push is not None
            self._live = LivePrototypes.read(
                self.model,
                self.inputs.push,
                self.push,
                batch_size=self.job.train.batch_size,
                workers=self.job.workers,
                channels_last=self.job.train.channels_last,
            )
        return self._live

    @property
    def forbidden(self) -> ForbiddenPatches | None:
        """The forbidden patches as the present stage sees them; None: their term is not part of the loss."""
        job, stage = self.job, self.progress.optimizer_stage
        if self._forbidden is None and job.forbidden is not None and job.train.forbidden > 0 and stage is not None:
            self._forbidden = ForbiddenPatches(
                self.model, self.inputs.push, job.forbidden, stage, job.train, job.workers
            )
        return self._forbidden

    def is_asked_to_stop(self) -> bool:
        """Whether any rank was asked to stop. All ranks call this together."""
        return self.job.ranks.any(self.job.should_stop())

    def start(self) -> list[Notice]:
        """Log the notes on the data and write the first checkpoint."""
        job = self.job
        self.progress.note_data(job.splits)
        self._cut_log(0)  # the log of a run that was killed before its first checkpoint
        notes = list(job.splits.notes)
        if job.train.backbone == "frozen" and given_of(job.splits.train) == "images":
            where = f"all stages read its features of the un-augmented images from {job.feature_folder}"
            notes.append(f"the backbone is frozen: {where}")
        notices = [Notice(text=note) for note in notes]
        self.log(notices)
        self.save("init-0")
        return notices

    def open_stores(self) -> Iterator[FeatureRecord]:
        """Read the frozen backbone's features instead of the images; missing ones are written first.

        Raises:
            DataError, OtherProcessError, Stopped: as `protokern.inputs.stores.open_stores`.
        """
        job = self.job
        self._stored = yield from open_stores(
            job.feature_folder,
            job.model,
            job.splits,
            job.train,
            precision=job.feature_precision,
            workers=job.workers,
            ranks=job.ranks,
            should_stop=job.should_stop,
        )

    def begin_epoch(self, stage: Stage) -> torch.optim.Optimizer:
        """The optimizer of `stage`, a new one in its first epoch. Call it before the weights change."""
        self.weights_changed()
        if self.optimizer is None or self.progress.optimizer_stage != stage:
            self.optimizer = make_optimizer(self.model, stage, self.job.train)
            self.progress.optimizer_stage = stage
            self._forbidden = None  # another part of the net may learn now
            self.model.zero_grad()  # live prototypes would pass on what the stage before left
        return self.optimizer

    def weights_changed(self) -> None:
        """Drop the features in memory, which belong to the old weights."""
        self.drop_features()

    def drop_features(self) -> None:
        """Free the memory of the features; they are computed again when they are needed."""
        self._frozen = None

    def weights_are_of(self, epoch: int) -> None:
        """Record the training epoch of the present weights."""
        self.progress.epoch = epoch

    def end_learning(self) -> None:
        """Drop the optimizer and the patches of live prototypes: they belong to other weights or prototypes."""
        self.optimizer, self.progress.optimizer_stage, self._live, self._forbidden = None, None, None, None

    def prototypes_come_from(self, push: PushResult) -> None:
        """Record where the prototypes come from."""
        self.push = push

    def follow_pruning(self, kept: Tensor) -> None:
        """Keep only the sources of the remaining prototypes, `kept` (P',) int64."""
        self.push = None if self.push is None else self.push.keep(kept)
        self.end_learning()  # the parameters of the optimizer no longer exist

    def batch_done(self, loss: BatchLoss, batch: int) -> None:
        """Record that `batch` batches of the epoch are done."""
        self.progress.sums.add(loss.mean, loss.terms, loss.correct, loss.images)
        self.progress.batch = batch

    def step_done(self, step: Step, records: Sequence[LoggedRecord], *, next_position: int, seconds: float) -> None:
        """Record that a step of the plan is done. Call `save` afterwards."""
        results = [to_table(record) for record in records if isinstance(record, StageRecord)]
        self.progress.finish_step(step.stage, seconds, results, next_position)

    def save_in_epoch(self, step: Step, seconds: float) -> None:
        """Write a checkpoint from which the epoch resumes after the last batch; it has taken `seconds` so far."""
        self.progress.sums.seconds = seconds
        self.save(f"{step.name}-batch-{self.progress.batch}")

    def log(self, records: Iterable[LoggedRecord]) -> None:
        """Append to the log, and count its lines for a resumed run."""
        for record in records:
            if self.job.ranks.is_first:
                append_record(self.job.log_path, record)
            self.progress.log_lines += 1

    def save(self, name: str) -> None:
        """Write a checkpoint from which training can resume. A number is added if the name is taken.

        The first rank writes, and the others wait for it.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        ranks = self.job.ranks
        if ranks.is_first:
            self.last_checkpoint = self._write(name)
        ranks.wait()
        if not ranks.is_first:
            self.last_checkpoint = find_resumable(self.job.folder)

    def _write(self, name: str) -> Path:
        job, progress = self.job, self.progress
        stage, _, _ = name.partition("-")
        tensors = random_tensors(job.model.device)
        if self.optimizer is not None:
            tensors |= optimizer_tensors(self.optimizer, job.model)
        return save_checkpoint(
            job.folder,
            name,
            job.model,
            CheckpointState(
                config=job.config,
                classes=job.classes,
                stage=stage,
                epoch=progress.epoch,
                push=self.push,
                progress=progress.to_table(),
            ),
            resume=tensors,
            keep=[best.checkpoint for best in (progress.best_joint, progress.best_live) if best is not None],
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore the state in which `checkpoint` was written; the run must have the same configuration.

        Raises:
            CheckpointError: the checkpoint is broken, or the data or the model are not those of the run.
        """
        state, folder = checkpoint.state, checkpoint.folder
        if state.progress is None:
            raise CheckpointError(f"{folder}: must be a checkpoint of a training to resume; another command wrote it.")
        try:
            progress = Progress.from_table(state.progress)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{folder}: must say where the training stands; it is broken ({error}).") from error
        progress.check_data(self.job.splits, self.job.classes, state.classes)
        self.progress, self.push, self.last_checkpoint = progress, state.push, folder
        self.weights_changed()
        checkpoint.load_weights(self.model)
        with translate_broken_states(checkpoint):
            states = self._read_states(checkpoint)
            self._restore_optimizer(states)
            load_random(states, self.model.device)
        self._cut_log(progress.log_lines)

    def return_to_best_joint(self) -> Best | None:
        """Load the weights and the optimizer's state of the best joint or hardening epoch since the last push.

        Returns:
            The epoch; None if there was none.
        """
        best = self.progress.best_joint
        if best is not None and best.epoch != self.progress.epoch:
            checkpoint = self._load_weights(best)
            with translate_broken_states(checkpoint):
                is_at_work = self.progress.optimizer_stage is not None
                self._restore_optimizer(self._read_states(checkpoint) if is_at_work else {})
            self.progress.epoch = best.epoch
        return best

    def end_live_stage(self, best: Best | None) -> None:
        """End a live stage with the weights of its epoch `best`; None: with the present weights."""
        if best is not None:
            self._load_weights(best)
        self.progress.best_live = None
        self.end_learning()

    def return_to_best_pushed(self) -> Best | None:
        """Load the weights and the push of the best last-layer stage.

        Returns:
            The stage; None if it is the one with the present weights.
        """
        best = self.progress.best_pushed
        if best is None or best.epoch == self.progress.epoch:
            return None
        self.push = self._load_weights(best).state.push
        self.end_learning()  # no epoch follows
        self.progress.epoch = best.epoch
        return best

    def _load_weights(self, best: Best) -> Checkpoint:
        checkpoint = read_checkpoint(checkpoint_folder(self.job.folder, best.checkpoint))
        self.weights_changed()
        checkpoint.load_weights(self.model)
        return checkpoint

    def _restore_optimizer(self, states: Mapping[str, Tensor]) -> None:
        stage = self.progress.optimizer_stage
        self.optimizer = None if stage is None else make_optimizer(self.model, stage, self.job.train)
        if self.optimizer is not None:
            load_optimizer(self.optimizer, self.model, states)

    def _read_states(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        # Adam has two tensors for every parameter that learns.
        return checkpoint.read_tensors(RESUME_FILE, at_most=3 * size_in_bytes(self.model))

    def _cut_log(self, num_lines: int) -> None:
        """Keep the first lines of the log: a resumed run writes the records after its checkpoint again."""
        if self.job.ranks.is_first:
            truncate_log(self.job.log_path, num_lines)
