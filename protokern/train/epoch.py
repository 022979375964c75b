"""One warm, joint, hardening or live epoch, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from protokern.config.train import TrainConfig
from protokern.errors import TrainingError
from protokern.inputs.loaders import LabelledImages, training_loader
from protokern.models.base import PrototypeModel
from protokern.ranks import SINGLE, Ranks
from protokern.train.events import BatchRecord
from protokern.train.live import LivePrototypes
from protokern.train.optimizers import schedule_factor, set_learning_rates
from protokern.train.stages import Step
from protokern.train.step import learn_from

REMEDY = "Start again with lower learning rates, or with train.gradient_clip."
COUNTS = ("loss", "correct", "images")  # the other sums of an epoch are the terms of the model's loss


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch works on. `batches` are image indices for all ranks; `first` of them are done already.

    `live` has the patches that the prototypes are, in a live epoch.
    """

    step: Step
    dataset: LabelledImages
    batches: Sequence[list[int]]
    first: int
    workers: int
    forward: nn.Module
    ranks: Ranks = SINGLE
    live: LivePrototypes | None = None


def train_epoch(
    model: PrototypeModel,
    optimizer: torch.optim.Optimizer,
    epoch: Epoch,
    config: TrainConfig,
    sums: dict[str, float],
) -> Iterator[BatchRecord]:
    """Train on the remaining batches of an epoch; the caller has frozen what must not learn.

    Args:
        model: on its device.
        optimizer: of the stage.
        epoch: see Epoch.
        config: coefficients, schedule, precision.
        sums: grows by every batch: loss and terms times images, correct answers, images.

    Raises:
        TrainingError: the loss of a batch is not finite; the weights have then not been changed by that batch.
    """
    forward = epoch.ranks.parallel(epoch.forward)
    learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    seed = int(np.random.SeedSequence([config.seed, epoch.step.epoch]).generate_state(1)[0])
    loader = training_loader(epoch.dataset, _of_this_rank(epoch), epoch.workers, seed)
    epochs_done, epochs = _place_in_schedule(epoch.step, config, chooses=model.chooses)
    vectors = None if epoch.live is None else epoch.live.write(model)

    def set_rates(position: int) -> None:
        progress = epochs_done + position / len(epoch.batches)
        set_learning_rates(optimizer, schedule_factor(epoch.step.stage, progress, epochs, config))

    set_rates(max(epoch.first - 1, 0))  # stopped after its last batch, an epoch still tells the rates of it
    for position, (images, labels) in enumerate(loader, start=epoch.first):
        set_rates(position)
        model.set_progress(epoch.step.epoch + position / len(epoch.batches))

        optimizer.zero_grad(set_to_none=True)
        values = learn_from(model, forward, images, labels, len(epoch.batches[position]), config, epoch.ranks)
        if not math.isfinite(values["loss"]):
            raise TrainingError(_not_finite(epoch, position, values))
        if epoch.live is not None and vectors is not None:
            epoch.live.pass_on_gradient(model, vectors)
        if config.gradient_clip > 0:
            torch.nn.utils.clip_grad_norm_(learnt, config.gradient_clip)
        optimizer.step()
        if epoch.live is not None:
            vectors = epoch.live.write(model)  # at once: the run may be asked to stop here, and is saved

        for name, value in values.items():
            factor = 1 if name in ("correct", "images") else values["images"]
            sums[name] = sums.get(name, 0.0) + value * factor
        yield BatchRecord(
            stage=epoch.step.stage,
            epoch=epoch.step.epoch,
            batch=position + 1,
            batches=len(epoch.batches),
            loss=values["loss"],
        )


def _place_in_schedule(step: Step, config: TrainConfig, *, chooses: bool) -> tuple[int, int]:
    """How many epochs of the stage's schedule are done, and how many it has."""
    if step.stage == "live":
        return step.live_epoch, config.live_epochs
    return step.epoch - config.warm_epochs, config.joint_epochs + (config.hardening_epochs if chooses else 0)


def _of_this_rank(epoch: Epoch) -> list[list[int]]:
    return [list(epoch.ranks.part_of(batch)) for batch in epoch.batches[epoch.first :]]


def _not_finite(epoch: Epoch, position: int, values: dict[str, float]) -> str:
    terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in COUNTS)
    batch = epoch.batches[position]
    names = ", ".join(epoch.dataset.sample_name(index) for index in batch[:3])
    more = f" and {len(batch) - 3} more" if len(batch) > 3 else ""
    return (
        f"{epoch.step.stage} epoch {epoch.step.epoch}, batch {position + 1} of {len(epoch.batches)}: the loss is not "
        f"finite ({terms}). The batch is {names}{more}. {REMEDY}"
    )
