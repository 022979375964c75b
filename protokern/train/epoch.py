"""One warm or joint epoch, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from protokern.errors import TrainingError
from protokern.losses import ProtoPNetCoefficients, protopnet_loss
from protokern.models.base import PrototypeModel
from protokern.train.frozen import to_device
from protokern.train.loaders import LabelledImages, training_loader
from protokern.train.optimizers import schedule_factor, set_learning_rates
from protokern.train.records import BatchRecord
from protokern.train.settings import TrainConfig
from protokern.train.stages import Step

REMEDY = "Start again with lower learning rates, or with train.gradient_clip."
SUMS = ("loss", "cross_entropy", "cluster", "separation", "l1", "correct", "images")


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch works on. `batches` are image indices; `first` of them are done already."""

    step: Step
    dataset: LabelledImages
    batches: Sequence[list[int]]
    first: int
    workers: int


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
        sums: grows by every batch: the terms times images, correct answers, images.

    Raises:
        TrainingError: the loss of a batch is not finite; the weights have then not been changed by that batch.
    """
    device = model.class_identity.device
    learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    loader = training_loader(epoch.dataset, epoch.batches[epoch.first :], epoch.workers)
    joint_epochs_done = epoch.step.epoch - config.warm_epochs
    for position, (images, labels) in enumerate(loader, start=epoch.first):
        progress = joint_epochs_done + position / len(epoch.batches)
        set_learning_rates(optimizer, schedule_factor(epoch.step.stage, progress, config))

        loss, terms = _forward(model, images, labels.to(device, non_blocking=True), config)
        values = dict(zip(SUMS, terms.tolist(), strict=True))  # the one wait for the device in a batch
        if not math.isfinite(values["loss"]):
            raise TrainingError(_not_finite(epoch, position, values))

        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.gradient_clip > 0:
            torch.nn.utils.clip_grad_norm_(learnt, config.gradient_clip)
        optimizer.step()

        for name in ("loss", "cross_entropy", "cluster", "separation", "l1"):
            sums[name] = sums.get(name, 0.0) + values[name] * values["images"]
        for name in ("correct", "images"):
            sums[name] = sums.get(name, 0.0) + values[name]
        yield BatchRecord(
            stage=epoch.step.stage,
            epoch=epoch.step.epoch,
            batch=position + 1,
            batches=len(epoch.batches),
            loss=values["loss"],
        )


def _forward(model: PrototypeModel, images: Tensor, labels: Tensor, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """The loss to minimise, and the seven numbers named in SUMS as one tensor."""
    device = labels.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        features = model.features(to_device(images, device, config.channels_last))  # (B, D, H, W)
    output = model.head(features.float())
    loss = protopnet_loss(
        output,
        labels,
        model.class_identity,
        model.last_layer.weight,
        ProtoPNetCoefficients(
            cross_entropy=config.cross_entropy, cluster=config.cluster, separation=config.separation, l1=config.l1
        ),
        max_distance=model.max_distance,
        label_smoothing=config.label_smoothing,
    )
    correct = (output.logits.argmax(dim=1) == labels).sum()
    images_in_batch = torch.tensor(float(len(labels)), device=device)
    return loss.total, torch.stack([*(term.detach() for term in loss), correct, images_in_batch])


def _not_finite(epoch: Epoch, position: int, values: dict[str, float]) -> str:
    terms = ", ".join(f"{name} {values[name]:.4g}" for name in ("cross_entropy", "cluster", "separation", "l1"))
    batch = epoch.batches[position]
    names = ", ".join(epoch.dataset.sample_name(index) for index in batch[:3])
    more = f" and {len(batch) - 3} more" if len(batch) > 3 else ""
    return (
        f"{epoch.step.stage} epoch {epoch.step.epoch}, batch {position + 1} of {len(epoch.batches)}: the loss is not "
        f"finite ({terms}). The batch is {names}{more}. {REMEDY}"
    )
