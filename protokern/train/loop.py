"""The training loop: the steps of `stages.py` in order, with a checkpoint after each; an epoch, batch by batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from protokern.config.train import TrainConfig
from protokern.errors import Stopped, TrainingError
from protokern.evaluate import Evaluation, evaluate
from protokern.inputs.loaders import given_of, ordered_loader, shuffled_batches, training_loader
from protokern.models.build import image_format
from protokern.runs.log import EpochRecord, LoggedRecord, Notice
from protokern.runs.progress import Best, set_seed
from protokern.runs.summary import SUMMARY_FILE, write_metrics
from protokern.train.checks import check_settings
from protokern.train.events import BatchDone, Event, RunStopped, StepBegins
from protokern.train.head_stages import (
    begin_live_stage,
    exemplars_step,
    follow_live_epoch,
    harden_step,
    last_layer_step,
    prune_step,
    push_step,
    return_to_best_joint,
    return_to_best_pushed,
    start_step,
)
from protokern.train.optimizers import freeze, schedule_factor, set_learning_rates
from protokern.train.stages import LEARNING, Step, skip_after_early_stop
from protokern.train.state import TrainingRun, plan_of
from protokern.train.step import BatchLoss, learn_from

_REMEDY = "Start again with lower learning rates, or with train.gradient_clip."


def train(run: TrainingRun) -> Iterator[Event]:
    """Do all steps of the plan that are not done yet; yield events meanwhile.

    A checkpoint follows each step, and the step's records are yielded once it is on the disk. When `should_stop()` of
    the job becomes true, the present batch, or outside of epochs the present step, is finished, a checkpoint is
    written, and `RunStopped` is the last event.

    Raises:
        ConfigError: the model cannot be trained with a setting.
        TrainingError: a loss or a distance is not finite; the last checkpoint is from before that.
        CheckpointError: the disk is full or not writable.
        DataError: the features of a frozen backbone are damaged, stale, or cannot be written.
    """
    try:
        yield from _walk(run)
    except Stopped:
        assert run.last_checkpoint is not None
        yield RunStopped(run.last_checkpoint)


def _walk(run: TrainingRun) -> Iterator[Event]:
    job, progress = run.job, run.progress
    check_settings(job.model, job.train, len(job.splits.train), job.ranks)
    steps = plan_of(job)
    if not progress.images:
        yield from run.start()
    if job.train.backbone == "frozen" and given_of(job.splits.train) == "images":
        yield from run.open_stores()

    while progress.position < len(steps):
        step, next_position = steps[progress.position], progress.position + 1
        if progress.batch == 0:  # within an epoch the random states come from the checkpoint
            set_seed(job.train.seed, progress.position + 1)  # 0 is for the initial weights
        freeze(run.model, step.stage, job.train)
        yield begin_step(steps, progress.position)
        started = time.perf_counter() - progress.sums.seconds

        records: list[LoggedRecord]
        try:
            if step.stage in LEARNING:
                records = yield from _learning_step(run, step, started)
                can_end = job.model.pushes and step.stage in ("joint", "hardening")
                if can_end and 0 < job.train.patience <= progress.waited:
                    next_position = skip_after_early_stop(steps, next_position)
                    text = f"early stop: {progress.waited} epochs without better validation accuracy"
                    records.append(Notice(text=text))
            elif step.stage == "start":
                records = start_step(run)
            elif step.stage == "push":
                is_pruned = progress.position > 0 and steps[progress.position - 1].stage == "prune"
                records = [*([] if is_pruned else return_to_best_joint(run)), *push_step(run)]
            elif step.stage == "exemplars":
                records = exemplars_step(run)
            elif step.stage == "prune" and not run.model.pushes:
                records = prune_step(run)
            elif step.stage == "prune":
                is_first = steps[min(next_position, len(steps) - 1)].stage == "push"
                records = [*(return_to_best_joint(run) if is_first else return_to_best_pushed(run)), *prune_step(run)]
            else:
                records = last_layer_step(run, step)
        except TrainingError as error:
            raise TrainingError(f"{error} The last good checkpoint is {run.last_checkpoint}.") from error

        seconds = time.perf_counter() - started
        run.step_done(step, records, next_position=next_position, seconds=seconds)
        if next_position == len(steps):
            records += return_to_best_pushed(run)
        run.log(records)
        run.save(step.name if step.stage == "live" else f"{step.stage}-{progress.epoch}")
        yield from records
        if next_position < len(steps) and run.is_asked_to_stop():
            raise Stopped

    if job.ranks.is_first:
        _write_summary(run)


def begin_step(steps: Sequence[Step], position: int) -> StepBegins:
    """The event with which the step at `position` begins."""
    step = steps[position]
    first, last = position, position + 1
    while first > 0 and steps[first - 1].stage == step.stage:
        first -= 1
    while last < len(steps) and steps[last].stage == step.stage:
        last += 1
    return StepBegins(
        stage=step.stage,
        epoch=step.epoch,
        position=position,
        steps=len(steps),
        done=position - first,
        together=last - first,
    )


def _write_summary(run: TrainingRun) -> None:
    write_metrics(
        run.job.folder / SUMMARY_FILE,
        run.progress,
        num_prototypes=run.model.num_prototypes,
        num_classes=len(run.job.classes),
        seed=run.job.train.seed,
    )


def _learning_step(run: TrainingRun, step: Step, started: float) -> Generator[Event, None, list[LoggedRecord]]:
    """One epoch, with what its stage does before and after it."""
    records: list[LoggedRecord] = []
    if step.stage == "hardening":
        yield from harden_step(run)
    elif step.stage == "live" and step.live_epoch == 0:
        records += begin_live_stage(run)
    try:
        record = yield from _epoch(run, step, started)
    except Stopped:
        run.save_in_epoch(step, time.perf_counter() - started)
        raise
    records.append(record)
    if step.stage == "live":
        records += follow_live_epoch(run, step, record)
    elif step.stage in ("joint", "hardening") and run.model.pushes:
        # Validation images may have what was forbidden, too, and would reward the first epochs for still using it.
        note = run.progress.note_joint if run.forbidden is None else run.progress.note_last_joint
        note(Best(checkpoint=step.name, epoch=step.epoch, accuracy=record.val_accuracy, loss=record.val_loss))
    return records


def _epoch(run: TrainingRun, step: Step, started: float) -> Generator[BatchDone, None, EpochRecord]:
    """One epoch of training and its validation.

    Raises:
        Stopped: after a batch; the batches done so far are counted.
        TrainingError: a loss is not finite.
    """

    def stop_if_asked() -> None:
        if run.is_asked_to_stop():
            raise Stopped

    config, images = run.job.train, run.inputs.train
    optimizer = run.begin_epoch(step.stage)
    images.set_epoch(step.epoch)
    batches = shuffled_batches(len(images), config.batch_size, config.seed, step.epoch)
    for event in train_epoch(run, step, batches):
        yield event
        stop_if_asked()
    val = _validate(run, stop_if_asked)
    if not math.isfinite(val.loss):
        raise TrainingError(f"{step.stage} epoch {step.epoch}: the validation loss is not finite. {_REMEDY}")
    if step.stage != "live":
        run.weights_are_of(step.epoch)
    sums = run.progress.sums
    return EpochRecord(
        stage=step.stage,
        epoch=step.epoch,
        seconds=time.perf_counter() - started,
        images=int(sums.images),
        loss=sums.loss / sums.images,
        terms={name: term / sums.images for name, term in sums.terms.items()},
        accuracy=sums.correct / sums.images,
        val_accuracy=val.accuracy,
        val_loss=val.loss,
        learning_rates={group["name"]: group["lr"] for group in optimizer.param_groups},
    )


def _validate(run: TrainingRun, stop_if_asked: Callable[[], None]) -> Evaluation:
    job, model = run.job, run.model.eval()
    source = ordered_loader(run.inputs.val, job.train.batch_size, job.workers, job.ranks)
    val = evaluate(
        partial(model, given=source.given),
        source,
        model.device,
        memory_format=image_format(job.train.channels_last),
        # The ranks may have different numbers of batches here, so they agree on a stop only after the last one.
        after_batch=stop_if_asked if job.ranks.size == 1 else lambda: None,
        ranks=job.ranks,
        abstains=model.abstains,
    )
    if job.ranks.size > 1:
        stop_if_asked()
    return val


def train_epoch(run: TrainingRun, step: Step, batches: Sequence[list[int]]) -> Iterator[BatchDone]:
    """Train on the batches of an epoch that are not done yet; the frozen parts are already frozen.

    Args:
        run: whose stage has begun; counts every batch.
        step: the epoch.
        batches: image indices of the whole epoch, for all ranks.

    Raises:
        TrainingError: the loss of a batch is not finite; the weights have then not been changed by that batch.
    """
    job, model, optimizer, first = run.job, run.model, run.optimizer, run.progress.batch
    assert optimizer is not None
    forward = job.ranks.parallel(run.forward)
    learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    seed = int(np.random.SeedSequence([job.train.seed, step.epoch]).generate_state(1)[0])
    parts = [list(job.ranks.part_of(batch)) for batch in batches[first:]]
    loader = training_loader(run.inputs.train, parts, job.workers, seed)
    live = run.live if step.stage == "live" else None
    vectors = None if live is None else live.write(model)
    forbidden = run.forbidden

    model.set_step(step)
    if first == 0:
        model.start_epoch(len(batches))
    _set_rates(run, step, max(first - 1, 0), batches)  # an epoch stopped after its last batch still reports its rates
    for position, (images, labels) in enumerate(loader, start=first):
        _set_rates(run, step, position, batches)
        model.set_progress(step.epoch + position / len(batches))

        optimizer.zero_grad(set_to_none=True)
        done = learn_from(model, forward, images, labels, len(batches[position]), job.train, job.ranks, forbidden)
        loss = done.loss
        if not math.isfinite(loss.mean):
            raise TrainingError(_not_finite(run, step, position, batches, loss))
        if live is not None and vectors is not None:
            live.pass_on_gradient(model, vectors)
        if job.train.gradient_clip > 0:
            torch.nn.utils.clip_grad_norm_(learnt, job.train.gradient_clip)
        optimizer.step()
        model.after_step(done.output, done.labels, sum_over_ranks=job.ranks.sum_tensor)
        if live is not None:
            vectors = live.write(model)  # here, because a stop may be requested now, and the run is then saved

        run.batch_done(loss, position + 1)
        yield BatchDone(stage=step.stage, epoch=step.epoch, batch=position + 1, batches=len(batches), loss=loss.mean)


def _set_rates(run: TrainingRun, step: Step, position: int, batches: Sequence[list[int]]) -> None:
    """Set the learning rates of the batch at `position`."""
    model, config, share = run.model, run.job.train, position / len(batches)
    assert run.optimizer is not None
    factors = model.rate_factors(step, share, config)
    if factors is None:
        epochs_done, epochs = _place_in_schedule(step, config, chooses=model.chooses)
        factors = dict.fromkeys(model.parts, schedule_factor(step.stage, epochs_done + share, epochs, config))
    set_learning_rates(run.optimizer, factors)


def _place_in_schedule(step: Step, config: TrainConfig, *, chooses: bool) -> tuple[int, int]:
    """How many epochs of the stage's schedule are done, and how many it has."""
    if step.stage == "live":
        return step.live_epoch, config.live_epochs
    return step.epoch - config.warm_epochs, config.joint_epochs + (config.hardening_epochs if chooses else 0)


def _not_finite(run: TrainingRun, step: Step, position: int, batches: Sequence[list[int]], loss: BatchLoss) -> str:
    terms = ", ".join(f"{name} {value:.4g}" for name, value in loss.terms.items())
    batch = batches[position]
    names = ", ".join(run.inputs.train.sample_name(index) for index in batch[:3])
    more = f" and {len(batch) - 3} more" if len(batch) > 3 else ""
    return (
        f"{step.stage} epoch {step.epoch}, batch {position + 1} of {len(batches)}: the loss is not "
        f"finite ({terms}). The batch is {names}{more}. {_REMEDY}"
    )
