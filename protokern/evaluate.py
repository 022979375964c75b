"""The answers to a data set: accuracy, cross entropy and confusion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.models.base import Given, ModelOutput, PrototypeModel
from protokern.nn import evaluating
from protokern.ranks import SINGLE, Ranks

NO_ANSWER = -1  # in place of a class, where the model abstains


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy in [0, 1], mean cross entropy, and the number of images they are over.

    `confusion` (K, K) int64 on the CPU counts the images, row = true class, column = answer; None unless asked for.
    `unanswered` (K,) int64 on the CPU counts those to which the model gave no answer, by their true class; such an
    image counts as wrong, and is not in `confusion`. None unless asked for.
    """

    accuracy: float
    loss: float
    images: int
    confusion: Tensor | None = None
    unanswered: Tensor | None = None
    abstained: float = 0.0  # share of the images without an answer


def evaluate(
    model: Callable[[Tensor], ModelOutput],
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    *,
    memory_format: torch.memory_format = torch.preserve_format,
    after_batch: Callable[[], None] = lambda: None,
    ranks: Ranks = SINGLE,
    num_classes: int | None = None,
    abstains: Callable[[ModelOutput], Tensor] | None = None,
) -> Evaluation:
    """Run `model`, in evaluation mode, over (input, labels) batches: images, or features with a model's `head`.

    Args:
        model: from (B, ...) to an output with logits (B, K).
        batches: inputs and labels (B,) int64.
        device: of the model.
        memory_format: of the inputs.
        after_batch: called after every batch, for progress bars and interrupts.
        ranks: each has its own batches; all get the numbers over all of them.
        num_classes: K, to count the answers by class; None: no count.
        abstains: as `PrototypeModel.abstains`; None: that of `model` if it has one, else all images get answers.
    """
    if abstains is None and isinstance(model, PrototypeModel):
        abstains = model.abstains
    correct = torch.zeros((), dtype=torch.int64, device=device)
    abstained = correct.clone()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    images = 0
    counts: Tensor | None = None
    if num_classes is not None:  # the last column is for images without an answer
        counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64, device=device)
    for inputs, labels in batches:
        targets = labels.to(device)
        with torch.inference_mode():
            output = model(inputs.to(device, memory_format=memory_format))
            logits = output.logits  # (B, K)
            answers = _answers(output, abstains)
            correct += (answers == targets).sum()
            abstained += (answers == NO_ANSWER).sum()
            if counts is not None:
                counts[:, :-1] += count_confusion(targets, answers, len(counts))
                counts[:, -1] += count_unanswered(targets, answers, len(counts))
            loss += F.cross_entropy(logits, targets, reduction="sum")
        images += len(labels)
        after_batch()
    all_correct, all_loss, all_images, all_abstained = ranks.sum(
        [float(correct), float(loss), images, float(abstained)]
    )
    if counts is not None and ranks.size > 1:
        summed = ranks.sum(counts.flatten().double().tolist())
        counts = torch.tensor(summed, dtype=torch.float64).long().view(counts.shape)
    return Evaluation(
        all_correct / max(all_images, 1),
        all_loss / max(all_images, 1),
        int(all_images),
        None if counts is None else counts[:, :-1].cpu(),
        None if counts is None else counts[:, -1].cpu(),
        all_abstained / max(all_images, 1),
    )


def _answers(output: ModelOutput, abstains: Callable[[ModelOutput], Tensor] | None) -> Tensor:
    """The class of every image, (B,) int64; NO_ANSWER where the model abstains."""
    answers = output.logits.argmax(dim=1)
    return answers if abstains is None else answers.masked_fill(abstains(output), NO_ANSWER)


@dataclass(frozen=True, slots=True)
class Predictions:
    """True and predicted class of every image of a data set, (N,) int64 each; NO_ANSWER where the model abstained."""

    labels: np.ndarray
    answers: np.ndarray


def predict(model: PrototypeModel, batches: Iterable[tuple[Tensor, Tensor]], given: Given = "images") -> Predictions:
    """The model's answer to every image of (images, labels) batches, or of what else `given` says."""
    labels, answers = [], []
    with evaluating(model):
        for images, batch_labels in batches:
            output = model(images.to(model.device, model.dtype), given)
            answers.append(_answers(output, model.abstains).cpu())
            labels.append(batch_labels)
    return Predictions(torch.cat(labels).numpy(), torch.cat(answers).numpy())


def collect_scores(
    model: PrototypeModel, batches: Iterable[tuple[Tensor, Tensor]], given: Given = "images"
) -> tuple[Tensor, Tensor]:
    """The scores (N, K) of every image of (images, labels) batches, and whether the model abstains (N,), on the CPU."""
    scores, abstains = [torch.empty(0, model.num_classes)], [torch.empty(0, dtype=torch.bool)]
    with evaluating(model):
        for images, _ in batches:
            output = model(images.to(model.device, model.dtype), given)
            scores.append(model.scores(output).float().cpu())
            abstains.append(model.abstains(output).cpu())
    return torch.cat(scores), torch.cat(abstains)


def count_confusion(labels: Tensor, answers: Tensor, num_classes: int) -> Tensor:
    """(K, K) int64, row = true class, column = answer, of labels and answers (N,) int64, those without one left out."""
    cell = torch.where(answers == NO_ANSWER, num_classes**2, labels * num_classes + answers)
    return torch.bincount(cell, minlength=num_classes**2 + 1)[:-1].view(num_classes, num_classes)


def count_unanswered(labels: Tensor, answers: Tensor, num_classes: int) -> Tensor:
    """(K,) int64, how many images of each class have no answer, of labels and answers (N,) int64."""
    cell = torch.where(answers == NO_ANSWER, labels, num_classes)
    return torch.bincount(cell, minlength=num_classes + 1)[:-1]
