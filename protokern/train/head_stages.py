"""The stages in which the backbone does not learn: push, last layer, prune. They share one set of features."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch

from protokern.config.train import TrainConfig
from protokern.elimination import Activations
from protokern.errors import TrainingError
from protokern.evaluate import evaluate
from protokern.inputs.loaders import first_image
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
from protokern.train.forbidden import ForbiddenNeighbours
from protokern.train.live import copy_patches
from protokern.train.optimizers import freeze, make_optimizer
from protokern.train.stages import Step
from protokern.train.state import TrainingRun

Details = dict[str, float | int]


def return_to_best_joint(run: TrainingRun) -> list[LoggedRecord]:
    """Restore the weights of the best joint or hardening epoch since the last push, and measure them."""
    best = run.return_to_best_joint()
    freeze(run.model, "push", run.job.train)
    if best is None:
        return [_measure(run, "warm", {})]
    return [_measure(run, "hardening" if best.checkpoint.startswith("hardening") else "joint", {})]


def harden_step(run: TrainingRun) -> list[Notice]:
    """Before the first hardening epoch: make the choices of the best joint epoch final.

    This is logged here and not with the epoch, because a run that is stopped within the epoch resumes with final
    choices.
    """
    if run.model.is_hard:
        return []
    best = run.return_to_best_joint()
    run.progress.forget_joint()
    start = "" if best is None else f" of epoch {best.epoch}"
    notices = [Notice(text=f"the choices{start} are final: {_in_words(run.model.harden())}")]
    run.log(notices)
    return notices


def _in_words(details: Details) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in details.items())


def start_step(run: TrainingRun) -> list[LoggedRecord]:
    """Replace every prototype by a patch of a training image of its class, or keep those that there are."""
    job, first = run.job, _first_push_image(run)
    run.weights_are_of(0)
    if job.train.prototype_start == "kept":
        return [_measure(run, "start", {})]
    features = run.frozen.push
    chosen = choose_images(run.inputs.push.labels, run.model.num_classes, job.train.seed)
    starts = find_starts(
        run.model, features, first, chosen, job.train.seed, job.ranks, job.classes, _forbidden_neighbours(run)
    )
    run.prototypes_come_from(starts)
    copy_patches(run.model, starts, features, first, job.ranks)
    return [_measure(run, "start", {})]


def push_step(run: TrainingRun) -> list[LoggedRecord]:
    """Replace every prototype by its nearest training patch; soft choices become final first."""
    hardened = _harden(run.model)
    search = replace(_search(run), excluded=_forbidden_neighbours(run))
    with _translate_refusals(run, "push"):
        push = push_found(run.model, search)
    run.prototypes_come_from(push)
    notices = [Notice(text=text) for text in push.notices]
    is_found = push.image >= 0
    mean = float(push.distance[is_found].mean())
    of_patches = {"mean_projection": -mean} if run.model.prototype_layer.is_projected else {"mean_distance": mean}
    details = {**of_patches, "without_patch": int((~is_found).sum())}
    return [*hardened, *notices, _measure(run, "push", details)]


def exemplars_step(run: TrainingRun) -> list[LoggedRecord]:
    """Find the training patch in which every prototype is most present, in images of any class; nothing is changed."""
    freeze(run.model, "exemplars", run.job.train)
    search = _search(run)
    with _translate_refusals(run, "exemplars"):
        nearest = search(run.model, 1)
    found = PushResult(
        image=nearest.image[:, 0],
        patch=nearest.patch[:, 0],
        distance=nearest.distance[:, 0],
        label=nearest.label[:, 0],
        grid=nearest.grid,
    )
    run.prototypes_come_from(found)
    presence = run.model.prototype_layer.activate(found.distance)
    details: Details = {"mean_presence": float(presence.mean()), **run.model.describe_sizes()}
    return [_measure(run, "exemplars", details)]


def _harden(model: PrototypeModel) -> list[LoggedRecord]:
    return [] if model.is_hard else [Notice(text=f"the choices are final: {_in_words(model.harden())}")]


def begin_live_stage(run: TrainingRun) -> list[LoggedRecord]:
    """Take the state right after the push as the best so far; say which prototypes are no patch."""
    assert run.push is not None
    progress, result = run.progress, run.progress.results[-1]
    if progress.batch == 0:  # otherwise the checkpoint has it
        assert run.last_checkpoint is not None
        name, accuracy, loss = run.last_checkpoint.name, result["val_accuracy"], result["val_loss"]
        progress.note_live(Best(checkpoint=name, epoch=0, accuracy=accuracy, loss=loss))
    free = (run.push.image < 0).nonzero().flatten().tolist()
    if not free:
        return []
    return [Notice(text=f"the prototypes {free} are no patch: they keep their vectors in the live stage")]


def follow_live_epoch(run: TrainingRun, step: Step, epoch: EpochRecord) -> list[LoggedRecord]:
    """Record the epoch if it is the best; after the last one choose the last or the best, and measure the result.

    The learning rates fall to zero, so the last epoch is probably the best. An earlier epoch is taken only if its
    validation accuracy is better by more than two standard errors, because few images cannot show smaller differences.
    """
    number = step.live_epoch + 1
    run.progress.note_live(Best(checkpoint=step.name, epoch=number, accuracy=epoch.val_accuracy, loss=epoch.val_loss))
    if number < run.job.train.live_epochs:
        return []
    best = run.progress.best_live
    assert best is not None
    is_better = _is_clearly_better(best.accuracy, epoch.val_accuracy, len(run.inputs.val))
    run.end_live_stage(best if is_better else None)
    freeze(run.model, "push", run.job.train)
    assert run.push is not None
    copy_patches(run.model, run.push, run.frozen.push, _first_push_image(run), run.job.ranks)
    return [_measure(run, "live", {"best_epoch": best.epoch if is_better else number})]


def _is_clearly_better(accuracy: float, other: float, count: int) -> bool:
    """Whether an accuracy on `count` images is above another by more than two standard errors."""
    share = ((accuracy + other) / 2 * count + 1) / (count + 2)  # never 0 or 1, whose standard error would be 0
    return accuracy - other > 2 * math.sqrt(max(share * (1 - share), 0.0) / (count + 2))


def last_layer_step(run: TrainingRun, step: Step) -> list[LoggedRecord]:
    """Train the last layer on the cached activations; record the best of several pushes."""
    notices: list[LoggedRecord] = []
    details: Details = {}
    train = run.job.train
    if any(True for _ in run.model.last_layer.parameters()):
        details = _learn_last_layer(run, step)
        if train.last_layer_solver == "convex" and not _is_solved(run):
            notices = [Notice(text=_say_small_steps(train))]
        elif details.get("gap", 0.0) > train.last_layer_gap:
            text = f"the last layer is within {details['gap']:.2g} of its minimum, not {train.last_layer_gap:g}"
            reason = "prototypes are nearly alike, or activations very large"
            notices = [Notice(text=f"{text}: {reason}. A larger train.l1 helps")]
    record = _measure(run, step.stage, details)
    if step.stage == "last_layer":
        progress = run.progress
        progress.note_pushed(
            Best(
                checkpoint=f"{step.stage}-{progress.epoch}",
                epoch=progress.epoch,
                accuracy=record.val_accuracy,
                loss=record.val_loss,
            )
        )
        progress.forget_joint()
    return [*notices, record]


def _say_small_steps(config: TrainConfig) -> str:
    text = "the last layer is not a linear one without bias: it learns in small steps"
    if (config.last_layer_own, config.last_layer_others) == ("free", "path"):
        return text
    return f"{text}, which know neither train.last_layer_own nor train.last_layer_others"


def _learn_last_layer(run: TrainingRun, step: Step) -> Details:
    ranks, frozen = run.job.ranks, run.frozen
    train, val = (gather_inputs(collect_inputs(run.model, features), ranks) for features in (frozen.push, frozen.val))
    details = _learn_on_first(run, step, train, val) if ranks.is_first else {}
    ranks.copy_from_first(run.model.last_layer.parameters())
    return details


def _is_solved(run: TrainingRun) -> bool:
    return run.job.train.last_layer_solver == "convex" and can_be_solved(run.model.last_layer)


def _learn_on_first(run: TrainingRun, step: Step, train: LastLayerInputs, val: LastLayerInputs) -> Details:
    model, config = run.model, run.job.train
    if _is_solved(run):
        return asdict(solve_last_layer(model, train, val, config))
    result = train_last_layer(model, train, val, config, make_optimizer(model, step.stage, config))
    return {
        "epochs": config.last_layer_epochs,
        "best_epoch": result.best_epoch,
        "loss_before": result.loss_before,
        "loss_after": result.loss_after,
    }


def prune_step(run: TrainingRun) -> list[LoggedRecord]:
    """Remove prototypes by the rule of the model, if it has one, else by `prune.rule`; soft choices become final
    first."""
    if (of_model := _prune_own(run)) is not None:
        return of_model
    hardened = _harden(run.model)
    return [*hardened, *(_prune_by_need(run) if run.job.prune.rule == "needed" else _prune_by_nearest(run))]


def _prune_own(run: TrainingRun) -> list[LoggedRecord] | None:
    """Remove prototypes by the rule of the model; None: it has none."""
    count = run.model.num_prototypes
    kept = run.model.prune_own(None if run.push is None else run.push.distance)
    if kept is None:
        return None
    run.follow_pruning(kept.cpu())
    notice = Notice(text="pruned by the model's own rule: prune.rule and its settings are not used")
    return [notice, _measure(run, "prune", {"removed": count - len(kept)})]


def _prune_by_need(run: TrainingRun) -> list[LoggedRecord]:
    """Remove prototypes that are duplicates or that the answers do not need; the first rank decides for all."""
    frozen, ranks, prune = run.frozen, run.job.ranks, run.job.prune
    train, val = (
        gather_inputs(collect_activations(run.model, features), ranks) for features in (frozen.push, frozen.val)
    )
    result: PrunedByNeed | None = None
    if ranks.is_first:
        with _translate_refusals(run, "prune"):
            result = choose_by_need(
                run.model,
                Activations(val.values, val.labels),
                Activations(train.values, train.labels),
                run.push,
                accuracy_loss=prune.accuracy_loss,
                loss_ratio=prune.loss_ratio,
                per_class=prune.per_class,
            )
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
    run.follow_pruning(kept)
    return [_measure(run, "prune", details)]


def _prune_by_nearest(run: TrainingRun) -> list[LoggedRecord]:
    """Remove prototypes whose nearest patches are mostly of other classes."""
    search, prune = _search(run), run.job.prune
    with _translate_refusals(run, "prune"):
        result = apply_prune(run.model, search(run.model, prune.k), prune.threshold)
    run.follow_pruning(result.kept)
    details: Details = {"removed": len(result.pruned), "spared": len(result.spared)}
    return [_measure(run, "prune", details)]


def prune_by_number_step(
    run: TrainingRun, drop: Sequence[int] | None = None, keep: Sequence[int] | None = None
) -> list[LoggedRecord]:
    """Remove prototypes by their numbers with `protokern.prune.prune_by_number`; soft choices become final first.

    Raises:
        ValueError: as `prune_by_number`.
    """
    hardened = _harden(run.model)
    result = prune_by_number(run.model, drop=drop, keep=keep, classes=run.job.classes)
    run.follow_pruning(result.kept)
    numbers = ", ".join(map(str, result.pruned.tolist())) or "none"
    told = Notice(text=f"dropped by number: {numbers}. The prototypes that are left are numbered from 0 again.")
    return [*hardened, told, _measure(run, "prune", {"removed": len(result.pruned)})]


def return_to_best_pushed(run: TrainingRun) -> list[LoggedRecord]:
    """Restore the weights of the best last-layer stage if the present ones are of a later, worse one."""
    best = run.return_to_best_pushed()
    if best is None:
        return []
    freeze(run.model, "prune", run.job.train)
    return [Notice(text=f"back to the push after epoch {best.epoch}, the best on the validation split")]


def _first_push_image(run: TrainingRun) -> int:
    """Index of the first training image whose features this rank has."""
    return first_image(run.inputs.push, run.job.train.batch_size, run.job.ranks)


def _forbidden_neighbours(run: TrainingRun) -> ForbiddenNeighbours | None:
    """What no prototype may become; None: it may become any patch of its classes."""
    job = run.job
    if job.forbidden is None or job.train.forbidden == 0:
        return None
    return ForbiddenNeighbours(run.model, run.inputs.push, job.forbidden, job.train, job.workers)


def _search(run: TrainingRun) -> ShardedSearch:
    """The search over the training images, of which each rank has a part."""
    return ShardedSearch(run.job.ranks, run.frozen.push, _first_push_image(run))


def _measure(run: TrainingRun, stage: Stage, details: Details) -> StageRecord:
    """The accuracies of the present model. The test split is only reported; no choice depends on it."""
    model, frozen = run.model, run.frozen
    val, test = (
        evaluate(model.head, features, model.device, ranks=run.job.ranks, abstains=model.abstains)
        for features in (frozen.val, frozen.test)
    )
    if model.can_abstain:
        details = {**details, "val_abstained": val.abstained, "test_abstained": test.abstained}
    return StageRecord(
        stage=stage,
        epoch=run.progress.epoch,
        num_prototypes=model.num_prototypes,
        val_accuracy=val.accuracy,
        val_loss=val.loss,
        test_accuracy=test.accuracy,
        details=details,
    )


@contextmanager
def _translate_refusals(run: TrainingRun, name: str) -> Iterator[None]:
    """Turn an error of a stage, such as distances that are not finite, into a TrainingError."""
    try:
        yield
    except ValueError as error:
        raise TrainingError(f"{name} after epoch {run.progress.epoch}: {error}") from error
