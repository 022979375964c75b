"""One warm, joint or hardening epoch, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protokern.errors import TrainingError
from protokern.losses import Labels
from protokern.models.base import PrototypeModel
from protokern.train.frozen import to_device
from protokern.train.loaders import LabelledImages, training_loader
from protokern.train.optimizers import schedule_factor, set_learning_rates
from protokern.train.records import BatchRecord
from protokern.train.settings import TrainConfig
from protokern.train.stages import Step

REMEDY = "Start again with lower learning rates, or with train.gradient_clip."
COUNTS = ("loss", "correct", "images")  # the other sums of an epoch are the terms of the model's loss


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
        sums: grows by every batch: loss and terms times images, correct answers, images.

    Raises:
        TrainingError: the loss of a batch is not finite; the weights have then not been changed by that batch.
    """
    device = model.device
    learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    seed = int(np.random.SeedSequence([config.seed, epoch.step.epoch]).generate_state(1)[0])
    loader = training_loader(epoch.dataset, epoch.batches[epoch.first :], epoch.workers, seed)
    joint_epochs_done = epoch.step.epoch - config.warm_epochs
    joint_epochs = config.joint_epochs + (config.hardening_epochs if model.chooses else 0)
    for position, (images, labels) in enumerate(loader, start=epoch.first):
        progress = joint_epochs_done + position / len(epoch.batches)
        set_learning_rates(optimizer, schedule_factor(epoch.step.stage, progress, joint_epochs, config))
        model.set_progress(epoch.step.epoch + position / len(epoch.batches))

        loss, numbers = _forward(model, images, labels.to(device, non_blocking=True), config)
        names, tensors = zip(*numbers.items(), strict=True)
        values = dict(zip(names, torch.stack(tensors).tolist(), strict=True))  # the one wait for the device in a batch
        if not math.isfinite(values["loss"]):
            raise TrainingError(_not_finite(epoch, position, values))

        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.gradient_clip > 0:
            torch.nn.utils.clip_grad_norm_(learnt, config.gradient_clip)
        optimizer.step()

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


def _forward(
    model: PrototypeModel, images: Tensor, labels: Tensor, config: TrainConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise, and the numbers of the batch: loss, its terms, correct answers, images."""
    device = labels.device
    images, mixed = mix(to_device(images, device, config.channels_last), labels, mixup_of(model, config))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        features = model.features(images)  # (B, D, H, W)
    output = model.head(features.float())
    total, terms = model.loss(output, mixed, config.coefficients, label_smoothing=config.label_smoothing)
    numbers = {
        "loss": total,
        **terms,
        "correct": (output.logits.argmax(dim=1) == labels).sum(),
        "images": torch.tensor(float(len(labels)), device=device),
    }
    return total, {name: number.detach().to(total.dtype) for name, number in numbers.items()}


def mixup_of(model: PrototypeModel, config: TrainConfig) -> float:
    """The parameter of the mixup to train with."""
    return model.mixup if config.mixup == "auto" else config.mixup


def mix(images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Labels]:
    """Mix every image of a batch with another one of it; a batch of one image stays as it is.

    Args:
        images: (B, C, Y, X).
        labels: (B,) int64.
        alpha: the share of the first image is drawn from Beta(alpha, alpha), one for the batch; 0: no mixing.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """
    if alpha == 0 or len(labels) == 1:
        return images, Labels(labels)
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(labels)).to(labels.device)
    return torch.lerp(images[other], images, share), Labels(labels, labels[other], share)


def _not_finite(epoch: Epoch, position: int, values: dict[str, float]) -> str:
    terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in COUNTS)
    batch = epoch.batches[position]
    names = ", ".join(epoch.dataset.sample_name(index) for index in batch[:3])
    more = f" and {len(batch) - 3} more" if len(batch) > 3 else ""
    return (
        f"{epoch.step.stage} epoch {epoch.step.epoch}, batch {position + 1} of {len(epoch.batches)}: the loss is not "
        f"finite ({terms}). The batch is {names}{more}. {REMEDY}"
    )
