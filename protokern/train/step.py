"""One step of training: the forward pass, and the gradients of a batch that is split over ranks and parts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from protokern.config.train import TrainConfig
from protokern.inputs.sources import to_device
from protokern.losses import Labels
from protokern.models.base import Given, ModelOutput, PrototypeModel
from protokern.ranks import Ranks, split_evenly
from protokern.train.forbidden import ForbiddenPatches


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """The numbers of a whole batch, over all ranks and parts.

    Attributes:
        mean: mean loss of its images.
        terms: means of the terms of the loss by name, before their coefficients.
        correct: number of right answers.
        images: number of images.
    """

    mean: float
    terms: dict[str, float]
    correct: float
    images: float


class Learnt(NamedTuple):
    """What a process has learnt from in a step: numbers of the batch, its own outputs, its labels."""

    loss: BatchLoss
    output: ModelOutput
    labels: Tensor


class Forward(nn.Module):
    """The forward pass. The backbone runs under autocast if it is to use bfloat16; distances stay float32.

    Args:
        model: whose output it is.
        precision: of the backbone, "fp32" or "bf16".
        given: what the inputs are, as in `PrototypeModel.features`.
    """

    def __init__(self, model: PrototypeModel, precision: str, given: Given = "images") -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.given: Given = given

    def forward(self, inputs: Tensor) -> ModelOutput:
        """The output for images (B, C, Y, X), maps or features, as `given` says."""
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            features = self.model.features(inputs, self.given)  # (B, D, H, W)
        output: ModelOutput = self.model.head(features.float())
        return output


def make_forward(model: PrototypeModel, config: TrainConfig, given: Given = "images") -> nn.Module:
    """The forward pass of the training, compiled if the settings say so; make it once per run, or it compiles again."""
    forward = Forward(model, config.precision, given)
    if not config.compile:
        return forward
    forward.compile()
    return forward


def learn_from(
    model: PrototypeModel,
    forward: nn.Module,
    images: Tensor,
    labels: Tensor,
    num_images: int,
    config: TrainConfig,
    ranks: Ranks,
    forbidden: ForbiddenPatches | None = None,
) -> Learnt:
    """Set the gradients of the parameters to those of the mean loss of a batch, of which this rank has a part.

    A rank takes its images in `config.accumulation` parts. Each part is weighted by its number of images, so the
    gradient does not depend on the numbers of ranks and parts. Every part draws the same noise (Gumbel).

    Args:
        model: whose loss it is.
        forward: result of `make_forward`, parallel over the ranks.
        images: images of this rank, (B, C, Y, X), or (B, V, C, Y, X) for a model that sees V views; B may be 0.
        labels: their labels, (B,) int64.
        num_images: number of images of the whole batch, on all ranks.
        config: coefficients, mixup, accumulation.
        ranks: the processes that share the batch.
        forbidden: patches whose likes cost, whatever the batch is; None: there are none. Only in one process.
    """
    if images.ndim == 5:
        images = images.transpose(0, 1).flatten(0, 1)  # (V B, C, Y, X), view by view
    images, mixed = _mixed_part(images, labels, model, config, ranks)
    # A rank without an image still takes part in the backward pass. Views of an image stay together: one part.
    parts = [part for part in split_evenly(range(len(labels)), config.accumulation) if part] or [range(0)]
    random_state = _random_state(model.device)
    numbers, outputs = [], []
    for index, part in enumerate(parts):
        if index:
            _set_random_state(model.device, random_state)
        chosen = slice(part[0], part[-1] + 1) if part else slice(0, 0)
        is_last = index == len(parts) - 1
        waits = nullcontext() if is_last or not isinstance(forward, DistributedDataParallel) else forward.no_sync()
        with waits:
            output = forward(images[chosen] if model.views == 1 else images)
            total, names, of_part = _loss(model, output, _labels_of(mixed, chosen), len(part) / num_images, config)
            (total * ranks.size).backward()  # the ranks' gradients are averaged
        numbers.append(of_part)
        outputs.append(output)
    ranks.share_random()
    summed = torch.stack(numbers).sum(dim=0)
    if forbidden is not None:
        cost = forbidden.cost(model)
        (config.forbidden * cost).backward()
        summed, names = _with_term(summed, cost.detach(), config.forbidden), (*names, "forbidden")
    values: list[float] = summed.tolist()  # the only wait for the device in a batch
    mean, *terms, correct, count = ranks.sum(values)
    loss = BatchLoss(mean, dict(zip(names, terms, strict=True)), correct, count)
    return Learnt(loss, _joined(outputs, model), mixed.own)


def _with_term(numbers: Tensor, term: Tensor, coefficient: float) -> Tensor:
    """The numbers of a batch, loss, terms, right answers and images, with one more term of its loss at the end of the
    others."""
    return torch.cat([numbers[:1] + coefficient * term, numbers[1:-2], term[None].to(numbers.dtype), numbers[-2:]])


def _joined(outputs: Sequence[ModelOutput], model: PrototypeModel) -> ModelOutput:
    """The outputs of the parts of a batch as one, for a model that learns after the step; else the last one."""
    if len(outputs) == 1 or type(model).after_step is PrototypeModel.after_step:
        return outputs[-1]
    names = [field.name for field in fields(outputs[0])]
    return type(outputs[0])(*(torch.cat([getattr(one, name).detach() for one in outputs]) for name in names))


def _loss(
    model: PrototypeModel, output: ModelOutput, labels: Labels, share: float, config: TrainConfig
) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """What a part adds to the loss of its batch, the names of the terms, and what the part adds to the numbers of the
    batch: loss, terms, right answers, images."""
    loss, terms = model.loss(output, labels, config.coefficients, label_smoothing=config.label_smoothing)
    numbers = [number * share for number in (loss, *terms.values())]
    total = numbers[0]
    if share == 0:  # the mean over no image is NaN; the sum is 0, and so is its gradient
        total = output.logits.sum() + output.min_distances.sum()
        numbers = [torch.zeros_like(number) for number in numbers]
    correct = (output.logits[: len(labels.own)].argmax(dim=1) == labels.own).sum()
    images = torch.tensor(float(len(labels.own)), device=total.device)
    of_part = torch.stack([number.detach().to(total.dtype) for number in (*numbers, correct, images)])
    return total, tuple(terms), of_part


def mixup_of(model: PrototypeModel, config: TrainConfig) -> float:
    """The parameter of mixup in training."""
    return model.mixup if config.mixup == "auto" else config.mixup


def mix(images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Labels]:
    """Mix every image of a batch with another image of the batch; a batch of one image is not changed.

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
    images = images.float()  # stored features may be bfloat16
    return torch.lerp(images[other], images, share), Labels(labels, labels[other], share)


def _mixed_part(
    images: Tensor, labels: Tensor, model: PrototypeModel, config: TrainConfig, ranks: Ranks
) -> tuple[Tensor, Labels]:
    """The images of this rank on the model's device, mixed with images of the whole batch."""
    alpha = mixup_of(model, config)
    if model.views > 1:  # without mixup, which is refused
        device = model.device
        return to_device(images, device, config.channels_last), Labels(labels.to(device, non_blocking=True))
    own = slice(0, len(labels))
    if alpha > 0 and ranks.size > 1:
        everyone_s = ranks.gather(images)
        before = sum(len(part) for part in everyone_s[: ranks.rank])
        own = slice(before, before + len(labels))
        images, labels = torch.cat(everyone_s), torch.cat(ranks.gather(labels))
    device = model.device
    images = to_device(images, device, config.channels_last)
    images, mixed = mix(images, labels.to(device, non_blocking=True), alpha)
    return images[own], _labels_of(mixed, own)


def _labels_of(labels: Labels, part: slice) -> Labels:
    return Labels(labels.own[part], None if labels.mixed_in is None else labels.mixed_in[part], labels.share)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    on_cpu, on_gpu = state
    torch.set_rng_state(on_cpu)
    if on_gpu is not None:
        torch.cuda.set_rng_state(on_gpu, device)
