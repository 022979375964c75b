"""Training, top to bottom: walk the plan of `stages.py`, one checkpoint after each step."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator

from protokern.errors import TrainingError
from protokern.evaluate import evaluate
from protokern.inputs.loaders import ordered_loader, shuffled_batches
from protokern.inputs.stores import FeatureRecord, open_stores, taking_stored_maps
from protokern.models.build import image_format
from protokern.runs.log import EpochRecord, LoggedRecord, Notice, StageRecord, to_table
from protokern.runs.progress import Best, set_seed
from protokern.runs.summary import write_metrics
from protokern.train.epoch import COUNTS, REMEDY, Epoch, train_epoch
from protokern.train.events import BatchRecord, Record, StepRecord
from protokern.train.head_stages import (
    begin_live_stage,
    follow_live_epoch,
    harden_step,
    last_layer_step,
    prune_step,
    push_step,
    return_to_best_joint,
    return_to_best_pushed,
    start_step,
)
from protokern.train.live import LivePrototypes
from protokern.train.optimizers import freeze, make_optimizer
from protokern.train.stages import LEARNING, Step, plan, skip_after_early_stop
from protokern.train.state import TrainingRun, count_images, cut_log, log_records, name_images, save_progress
from protokern.train.step import make_forward


def train(run: TrainingRun) -> Iterator[Record]:
    """Do all steps of the plan that are not done yet; yield what happens while it happens.

    A checkpoint follows each step, and the step's records are yielded once it is on the disk. When `run.should_stop()`
    turns true, the batch of an epoch or else the step at hand is finished, a checkpoint is written, and
    KeyboardInterrupt is raised.

    Raises:
        TrainingError: a loss or a distance is not finite; the last checkpoint is from before that.
        CheckpointError: the disk is full or refuses.
        DataError: the features of a frozen backbone are damaged, stale, or cannot be written.
        KeyboardInterrupt: `run.should_stop()` said so.
    """
    with taking_stored_maps(run.model, run.train.backbone == "frozen"):
        yield from _walk(run)


def _walk(run: TrainingRun) -> Iterator[Record]:
    steps = plan(run.train, run.prune, chooses=run.model.chooses)
    progress = run.progress
    if not progress.images:
        progress.images, progress.names = count_images(run.splits), name_images(run.splits)
        cut_log(run, 0)  # of a run that was killed before its first checkpoint
        notes = [Notice(text=note) for note in (*run.splits.notes, *_notes_on_stores(run))]
        log_records(run, notes)
        save_progress(run, "init-0")
        yield from notes
    if run.train.backbone == "frozen":
        yield from _open_stores(run)

    while progress.position < len(steps):
        step = steps[progress.position]
        if progress.batch == 0:  # in the middle of an epoch the random states came with the checkpoint
            set_seed(run.train.seed, progress.position + 1)  # 0 is for the initial weights
        freeze(run.model, step.stage, run.train)
        yield StepRecord(stage=step.stage, epoch=step.epoch, position=progress.position, steps=len(steps))
        started = time.perf_counter()

        records: list[LoggedRecord]
        next_position = progress.position + 1
        try:
            if step.stage in LEARNING:
                yield from harden_step(run) if step.stage == "hardening" else []
                records = begin_live_stage(run) if step.stage == "live" and step.live_epoch == 0 else []
                epoch_record = yield from _epoch_step(run, step)
                records.append(epoch_record)
                if step.stage == "live":
                    records += follow_live_epoch(run, step, epoch_record)
                elif step.stage != "warm" and _is_waiting_in_vain(run, step, epoch_record):
                    next_position = skip_after_early_stop(steps, next_position)
                    text = f"early stop: {progress.waited} epochs without better validation accuracy"
                    records.append(Notice(text=text))
            elif step.stage == "start":
                records = start_step(run)
            elif step.stage == "push":
                records = [*return_to_best_joint(run), *push_step(run)]
            elif step.stage == "prune":
                records = [*return_to_best_pushed(run), *prune_step(run)]
            else:
                records = last_layer_step(run, step)
        except TrainingError as error:
            raise TrainingError(f"{error} The last good checkpoint is {run.last_checkpoint}.") from error

        elapsed = time.perf_counter() - started + progress.sums.get("seconds", 0.0)
        progress.seconds[step.stage] = progress.seconds.get(step.stage, 0.0) + elapsed
        progress.results += [to_table(record) for record in records if isinstance(record, StageRecord)]
        progress.position, progress.batch, progress.sums = next_position, 0, {}
        if progress.position == len(steps):
            records += return_to_best_pushed(run)
        log_records(run, records)
        save_progress(run, step.name if step.stage == "live" else f"{step.stage}-{progress.epoch}")
        yield from records
        if progress.position < len(steps) and run.ranks.any(run.should_stop()):
            raise KeyboardInterrupt

    if run.ranks.is_first:
        _write_summary(run)


def _open_stores(run: TrainingRun) -> Iterator[FeatureRecord]:
    run.stored = yield from open_stores(
        run.feature_folder,
        run.model,
        run.splits,
        run.train,
        precision=run.feature_precision,
        workers=run.workers,
        ranks=run.ranks,
        should_stop=run.should_stop,
    )


def _notes_on_stores(run: TrainingRun) -> tuple[str, ...]:
    """What a person should know about a run on a frozen backbone; nothing about another one."""
    if run.train.backbone != "frozen":
        return ()
    where = run.feature_folder
    return (f"the backbone is frozen: all stages read its features of the un-augmented images from {where}",)


def _write_summary(run: TrainingRun) -> None:
    write_metrics(
        run.folder / "metrics.json",
        run.progress,
        num_prototypes=run.model.num_prototypes,
        num_classes=len(run.classes),
        seed=run.train.seed,
    )


def _epoch_step(run: TrainingRun, step: Step) -> Generator[BatchRecord, None, EpochRecord]:
    """One epoch of training and its validation."""
    progress, config = run.progress, run.train
    run.frozen = None  # what is kept there is about to change
    if run.optimizer is None or progress.optimizer_stage != step.stage:
        run.optimizer = make_optimizer(run.model, step.stage, config)
        progress.optimizer_stage = step.stage
    started = time.perf_counter() - progress.sums.get("seconds", 0.0)

    def stop_if_asked() -> None:
        if run.ranks.any(run.should_stop()):
            progress.sums["seconds"] = time.perf_counter() - started
            save_progress(run, f"{step.stage}-{step.epoch}-batch-{progress.batch}")
            raise KeyboardInterrupt

    run.inputs.train.set_epoch(step.epoch)
    batches = shuffled_batches(len(run.inputs.train), config.batch_size, config.seed, step.epoch)
    run.forward = run.forward or make_forward(run.model, config)
    live = _live_prototypes(run) if step.stage == "live" else None
    epoch = Epoch(step, run.inputs.train, batches, progress.batch, run.workers, run.forward, run.ranks, live)
    for record in train_epoch(run.model, run.optimizer, epoch, config, progress.sums):
        progress.batch = record.batch
        yield record
        stop_if_asked()

    run.model.eval()
    val = evaluate(
        run.model,
        ordered_loader(run.inputs.val, config.batch_size, run.workers, run.ranks),
        run.device,
        memory_format=image_format(config.channels_last),
        # Ranks may have different numbers of batches, so they agree on a stop only after the last one.
        after_batch=stop_if_asked if run.ranks.size == 1 else lambda: None,
        ranks=run.ranks,
    )
    if run.ranks.size > 1:
        stop_if_asked()
    if not math.isfinite(val.loss):
        raise TrainingError(f"{step.stage} epoch {step.epoch}: the validation loss is not finite. {REMEDY}")
    if step.stage != "live":
        progress.epoch = step.epoch
    sums = progress.sums
    terms = {name: value / sums["images"] for name, value in sums.items() if name not in (*COUNTS, "seconds")}
    return EpochRecord(
        stage=step.stage,
        epoch=step.epoch,
        seconds=time.perf_counter() - started,
        images=int(sums["images"]),
        loss=sums["loss"] / sums["images"],
        terms=terms,
        accuracy=sums["correct"] / sums["images"],
        val_accuracy=val.accuracy,
        val_loss=val.loss,
        learning_rates={group["name"]: group["lr"] for group in run.optimizer.param_groups},
    )


def _live_prototypes(run: TrainingRun) -> LivePrototypes:
    if run.live is None:
        assert run.push is not None
        run.live = LivePrototypes.read(
            run.model,
            run.inputs.push,
            run.push,
            batch_size=run.train.batch_size,
            workers=run.workers,
            channels_last=run.train.channels_last,
        )
    return run.live


def _is_waiting_in_vain(run: TrainingRun, step: Step, record: EpochRecord) -> bool:
    """Note the epoch if it is the best since the last push; whether patience is at its end."""
    progress = run.progress
    best = progress.best_joint
    if best is None or best.is_beaten_by(record.val_accuracy, record.val_loss):
        progress.best_joint = Best(
            checkpoint=step.name, epoch=step.epoch, accuracy=record.val_accuracy, loss=record.val_loss
        )
        progress.waited = 0
    else:
        progress.waited += 1
    return 0 < run.train.patience <= progress.waited
