"""The stages after the backbone has stopped learning: push, last layer, prune. They share one set of features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TypeVar

import torch
from torch import Tensor

from protokern.config.train import TrainConfig
from protokern.elimination import Activations
from protokern.errors import TrainingError
from protokern.evaluate import evaluate
from protokern.inputs.loaders import first_image, ordered_loader
from protokern.inputs.sources import FrozenSplits, on_features
from protokern.models.base import PrototypeModel
from protokern.prototype_start import choose_images, find_starts
from protokern.prune import PrunedByNeed, apply_prune, choose_by_need, keep_with_weights, prune_by_number
from protokern.push import PushResult, push_found
from protokern.results.stages import Stage
from protokern.runs.log import EpochRecord, LoggedRecord, Notice, StageRecord
from protokern.runs.progress import Best
from protokern.search.shards import ShardedSearch
from protokern.solvers.last_layer import (
    LastLayerInputs,
    can_be_solved,
    collect_activations,
    collect_inputs,
    gather_inputs,
    solve_last_layer,
    train_last_layer,
)
from protokern.train.live import copy_patches
from protokern.train.optimizers import freeze, make_optimizer
from protokern.train.stages import Step
from protokern.train.state import TrainingRun, log_records, read_own_checkpoint, restore_weights

Result = TypeVar("Result")
Details = dict[str, float | int]


def return_to_best_joint(run: TrainingRun) -> list[LoggedRecord]:
    """Take the weights of the best joint or hardening epoch since the last push, and measure them."""
    best = _restore_best(run)
    freeze(run.model, "push", run.train)
    if best is None:
        return [_measure(run, "warm", {})]
    return [_measure(run, "hardening" if best.checkpoint.startswith("hardening") else "joint", {})]


def _restore_best(run: TrainingRun) -> Best | None:
    progress = run.progress
    best = progress.best_joint
    if best is not None and best.epoch != progress.epoch:
        restore_weights(run, best.checkpoint)
        progress.epoch = best.epoch
    return best


def harden_step(run: TrainingRun) -> list[Notice]:
    """Before the first hardening epoch: make the choices of the best joint epoch final.

    Logged here and not with the epoch: a run that is stopped inside the epoch goes on with choices that are final.
    """
    if run.model.is_hard:
        return []
    best = _restore_best(run)
    run.progress.best_joint, run.progress.waited = None, 0
    start = "" if best is None else f" of epoch {best.epoch}"
    notices = [Notice(text=f"the choices{start} are final: {_in_words(run.model.harden())}")]
    log_records(run, notices)
    return notices


def _in_words(details: Details) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in details.items())


def start_step(run: TrainingRun) -> list[LoggedRecord]:
    """Let every prototype be a patch of a training image of its class."""
    run.progress.epoch = 0
    frozen = _frozen(run)
    chosen = choose_images(run.inputs.push.labels, run.model.num_classes, run.train.seed)
    first = first_image(run.inputs.push, run.train.batch_size, run.ranks)
    run.push = find_starts(run.model, frozen.push, first, chosen, run.train.seed, run.ranks, run.classes)
    copy_patches(run.model, run.push, frozen.push, first, run.ranks)
    return [_measure(run, "start", {})]


def push_step(run: TrainingRun) -> list[LoggedRecord]:
    """Make every prototype its nearest training patch; choices that are still soft become final first."""
    hardened = _harden(run.model)
    search = _search(run)
    with on_features(run.model):
        push, notices = _speak(lambda: push_found(run.model, search), run, "push")
    run.push = push
    is_found = push.image >= 0
    details = {"mean_distance": float(push.distance[is_found].mean()), "without_patch": int((~is_found).sum())}
    return [*hardened, *notices, _measure(run, "push", details)]


def _harden(model: PrototypeModel) -> list[LoggedRecord]:
    return [] if model.is_hard else [Notice(text=f"the choices are final: {_in_words(model.harden())}")]


def begin_live_stage(run: TrainingRun) -> list[LoggedRecord]:
    """The state right after the push is the first to beat; say which prototypes are no patch."""
    assert run.push is not None
    progress, result = run.progress, run.progress.results[-1]
    if progress.batch == 0:  # else it is known from the checkpoint
        assert run.last_checkpoint is not None
        progress.best_live = Best(
            checkpoint=run.last_checkpoint.name, epoch=0, accuracy=result["val_accuracy"], loss=result["val_loss"]
        )
    free = (run.push.image < 0).nonzero().flatten().tolist()
    if not free:
        return []
    return [Notice(text=f"the prototypes {free} are no patch: they keep their vectors in the live stage")]


def follow_live_epoch(run: TrainingRun, step: Step, epoch: EpochRecord) -> list[LoggedRecord]:
    """Note the epoch if it is the best; after the last one choose between that one and the best, and measure it.

    Rates fall to zero, so the last epoch is the one to expect most of. An earlier one is taken where the validation
    finds it better by more than two standard errors: so few images cannot tell less apart.
    """
    progress = run.progress
    best = progress.best_live
    assert best is not None
    if best.is_beaten_by(epoch.val_accuracy, epoch.val_loss):
        best = progress.best_live = Best(
            checkpoint=step.name, epoch=step.live_epoch + 1, accuracy=epoch.val_accuracy, loss=epoch.val_loss
        )
    if step.live_epoch + 1 < run.train.live_epochs:
        return []
    taken = step.live_epoch + 1
    if _is_clearly_better(best.accuracy, epoch.val_accuracy, len(run.inputs.val)):
        taken = best.epoch
        read_own_checkpoint(run, best.checkpoint).load_weights(run.model)
    progress.best_live, run.live = None, None
    run.optimizer, progress.optimizer_stage = None, None  # the weights may be older than its state
    freeze(run.model, "push", run.train)
    assert run.push is not None
    first = first_image(run.inputs.push, run.train.batch_size, run.ranks)
    copy_patches(run.model, run.push, _frozen(run).push, first, run.ranks)
    return [_measure(run, "live", {"best_epoch": taken})]


def _is_clearly_better(accuracy: float, other: float, count: int) -> bool:
    """Whether an accuracy on `count` images is above another by more than two standard errors."""
    share = ((accuracy + other) / 2 * count + 1) / (count + 2)  # never 0 or 1, which would have no error
    return accuracy - other > 2 * math.sqrt(max(share * (1 - share), 0.0) / (count + 2))


def last_layer_step(run: TrainingRun, step: Step) -> list[LoggedRecord]:
    """Learn the last layer on the cached activations; remember the best of several pushes."""
    notices: list[LoggedRecord] = []
    details: Details = {}
    if any(True for _ in run.model.last_layer.parameters()):
        details = _learn_last_layer(run, step)
        if run.train.last_layer_solver == "convex" and not _is_solved(run):
            notices = [Notice(text=_say_small_steps(run.train))]
        elif details.get("gap", 0.0) > run.train.last_layer_gap:
            text = f"the last layer is within {details['gap']:.2g} of its minimum, not {run.train.last_layer_gap:g}"
            reason = "prototypes are nearly alike, or activations very large"
            notices = [Notice(text=f"{text}: {reason}. A larger train.l1 helps")]
    record = _measure(run, step.stage, details)
    if step.stage == "last_layer":
        progress = run.progress
        best = progress.best_pushed
        if best is None or best.is_beaten_by(record.val_accuracy, record.val_loss):
            progress.best_pushed = Best(
                checkpoint=f"{step.stage}-{progress.epoch}",
                epoch=progress.epoch,
                accuracy=record.val_accuracy,
                loss=record.val_loss,
            )
        progress.best_joint, progress.waited = None, 0
    return [*notices, record]


def _say_small_steps(config: TrainConfig) -> str:
    text = "the last layer is not a linear one without bias: it learns in small steps"
    if (config.last_layer_own, config.last_layer_others) == ("free", "path"):
        return text
    return f"{text}, which know neither train.last_layer_own nor train.last_layer_others"


def _learn_last_layer(run: TrainingRun, step: Step) -> Details:
    frozen = _frozen(run)
    train, val = (
        gather_inputs(collect_inputs(run.model, features), run.ranks) for features in (frozen.push, frozen.val)
    )
    details = _learn_on_first(run, step, train, val) if run.ranks.is_first else {}
    run.ranks.copy_from_first(run.model.last_layer.parameters())
    return details


def _is_solved(run: TrainingRun) -> bool:
    return run.train.last_layer_solver == "convex" and can_be_solved(run.model.last_layer)


def _learn_on_first(run: TrainingRun, step: Step, train: LastLayerInputs, val: LastLayerInputs) -> Details:
    if _is_solved(run):
        return asdict(solve_last_layer(run.model, train, val, run.train))
    result = train_last_layer(run.model, train, val, run.train, make_optimizer(run.model, step.stage, run.train))
    return {
        "epochs": run.train.last_layer_epochs,
        "best_epoch": result.best_epoch,
        "loss_before": result.loss_before,
        "loss_after": result.loss_after,
    }


def prune_step(run: TrainingRun) -> list[LoggedRecord]:
    """Drop prototypes by `prune.rule`; soft choices become final first."""
    hardened = _harden(run.model)
    return [*hardened, *(_prune_by_need(run) if run.prune.rule == "needed" else _prune_by_nearest(run))]


def _prune_by_need(run: TrainingRun) -> list[LoggedRecord]:
    """Drop the prototypes that are there twice or that the answers do not need; the first rank decides for all."""
    frozen, ranks, prune = _frozen(run), run.ranks, run.prune
    train, val = (
        gather_inputs(collect_activations(run.model, features), ranks) for features in (frozen.push, frozen.val)
    )
    result: PrunedByNeed | None = None
    if ranks.is_first:
        try:
            result = choose_by_need(
                run.model,
                Activations(val.values, val.labels),
                Activations(train.values, train.labels),
                run.push,
                accuracy_loss=prune.accuracy_loss,
                loss_ratio=prune.loss_ratio,
                per_class=prune.per_class,
            )
        except ValueError as error:
            raise TrainingError(f"prune after epoch {run.progress.epoch}: {error}") from error
    nothing = torch.zeros(0, dtype=torch.int64)
    kept = ranks.gather(nothing if result is None else result.kept)[0]
    weight = ranks.gather(nothing.double()[:, None] if result is None else result.weight)[0]
    details: Details = {}
    if result is not None:
        path, steps = result.path, result.steps
        details = {
            "removed": steps,
            "copies": len(result.copies),
            "not_needed": len(result.not_needed),
            "loss_before": float(path.loss[0]),
            "loss_after": float(path.loss[steps]),
        }
    if len(kept) < run.model.num_prototypes:
        keep_with_weights(run.model, kept, weight)
    _follow_pruning(run, kept)
    return [_measure(run, "prune", details)]


def _prune_by_nearest(run: TrainingRun) -> list[LoggedRecord]:
    """Drop the prototypes whose nearest patches are mostly of other classes."""
    search = _search(run)
    with on_features(run.model):
        result, notices = _speak(
            lambda: apply_prune(run.model, search(run.model, run.prune.k), run.prune.threshold), run, "prune"
        )
    _follow_pruning(run, result.kept)
    details: Details = {"removed": len(result.pruned), "spared": len(result.spared)}
    return [*notices, _measure(run, "prune", details)]


def prune_by_number_step(
    run: TrainingRun, drop: Sequence[int] | None = None, keep: Sequence[int] | None = None
) -> list[LoggedRecord]:
    """Drop prototypes by their numbers, as `protokern.prune.prune_by_number`; soft choices become final first.

    Raises:
        ValueError: as `prune_by_number`.
    """
    hardened = _harden(run.model)
    result = prune_by_number(run.model, drop=drop, keep=keep, classes=run.classes)
    _follow_pruning(run, result.kept)
    numbers = ", ".join(map(str, result.pruned.tolist())) or "none"
    told = Notice(text=f"dropped by number: {numbers}. The prototypes that are left are numbered from 0 again.")
    return [*hardened, told, _measure(run, "prune", {"removed": len(result.pruned)})]


def _follow_pruning(run: TrainingRun, kept: Tensor) -> None:
    """Let what belongs to the prototypes follow those that are left, (P',) int64."""
    run.push = None if run.push is None else keep_sources(run.push, kept)
    run.optimizer, run.progress.optimizer_stage = None, None  # its parameters are gone


def return_to_best_pushed(run: TrainingRun) -> list[LoggedRecord]:
    """Take the weights of the best last-layer stage, if those at hand are of a later, worse one."""
    progress, best = run.progress, run.progress.best_pushed
    if best is None or best.epoch == progress.epoch:
        return []
    checkpoint = read_own_checkpoint(run, best.checkpoint)
    checkpoint.load_weights(run.model)
    run.push = checkpoint.state.push
    run.frozen = None
    run.optimizer, progress.optimizer_stage = None, None  # no epoch follows
    progress.epoch = best.epoch
    freeze(run.model, "prune", run.train)
    return [Notice(text=f"back to the push after epoch {best.epoch}, the best on the validation split")]


def keep_sources(push: PushResult, kept: Tensor) -> PushResult:
    """Where the kept prototypes come from, after pruning to `kept` (P',) int64."""
    return PushResult(
        image=push.image[kept],
        patch=push.patch[kept],
        distance=push.distance[kept],
        label=push.label[kept],
        grid=push.grid,
    )


def _frozen(run: TrainingRun) -> FrozenSplits:
    """The features of the frozen backbone, made when they are first asked for."""
    if run.frozen is None:
        run.frozen = FrozenSplits.make(
            run.model,
            *(
                ordered_loader(split, run.train.batch_size, run.workers, run.ranks)
                for split in (run.inputs.push, run.inputs.val, run.inputs.test)
            ),
            channels_last=run.train.channels_last,
            memory=run.train.feature_cache_mb * 2**20,
            should_stop=run.should_stop,
        )
    return run.frozen


def _search(run: TrainingRun) -> ShardedSearch:
    """The search in the training images, of which each rank has a part."""
    first = first_image(run.inputs.push, run.train.batch_size, run.ranks)
    return ShardedSearch(run.ranks, _frozen(run).push, first)


def _measure(run: TrainingRun, stage: Stage, details: Details) -> StageRecord:
    """Accuracies of the model as it is. The test split is only reported; nothing is chosen by it."""
    frozen = _frozen(run)
    val, test = (
        evaluate(run.model.head, features, run.device, ranks=run.ranks) for features in (frozen.val, frozen.test)
    )
    return StageRecord(
        stage=stage,
        epoch=run.progress.epoch,
        num_prototypes=run.model.num_prototypes,
        val_accuracy=val.accuracy,
        val_loss=val.loss,
        test_accuracy=test.accuracy,
        details=details,
    )


def _speak(action: Callable[[], Result], run: TrainingRun, name: str) -> tuple[Result, list[Notice]]:
    """Do it; its warnings become notices, its refusal (distances that are not finite) a TrainingError."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = action()
        except ValueError as error:
            raise TrainingError(f"{name} after epoch {run.progress.epoch}: {error}") from error
    return result, [Notice(text=str(warning.message)) for warning in caught]
