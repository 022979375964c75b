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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy in [0, 1], mean cross entropy, and the number of images they are over.

    `confusion` (K, K) int64 on the CPU counts the images, row = true class, column = answer; None unless asked for.
    """

    accuracy: float
    loss: float
    images: int
    confusion: Tensor | None = None


def evaluate(
    model: Callable[[Tensor], ModelOutput],
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    *,
    memory_format: torch.memory_format = torch.preserve_format,
    after_batch: Callable[[], None] = lambda: None,
    ranks: Ranks = SINGLE,
    num_classes: int | None = None,
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
    """
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    images = 0
    confusion = None if num_classes is None else torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for inputs, labels in batches:
        targets = labels.to(device)
        with torch.inference_mode():
            logits = model(inputs.to(device, memory_format=memory_format)).logits  # (B, K)
            answers = logits.argmax(dim=1)
            correct += (answers == targets).sum()
            if confusion is not None:
                confusion += count_confusion(targets, answers, len(confusion))
            loss += F.cross_entropy(logits, targets, reduction="sum")
        images += len(labels)
        after_batch()
    all_correct, all_loss, all_images = ranks.sum([float(correct), float(loss), images])
    if confusion is not None and ranks.size > 1:
        confusion = (
            torch.tensor(ranks.sum(confusion.flatten().double().tolist()), dtype=torch.float64)
            .long()
            .view(confusion.shape)
        )
    return Evaluation(
        all_correct / max(all_images, 1),
        all_loss / max(all_images, 1),
        int(all_images),
        None if confusion is None else confusion.cpu(),
    )


@dataclass(frozen=True, slots=True)
class Predictions:
    """True and predicted class of every image of a data set, (N,) int64 each."""

    labels: np.ndarray
    answers: np.ndarray


def predict(model: PrototypeModel, batches: Iterable[tuple[Tensor, Tensor]], given: Given = "images") -> Predictions:
    """The model's answer to every image of (images, labels) batches, or of what else `given` says."""
    labels, answers = [], []
    with evaluating(model):
        for images, batch_labels in batches:
            logits = model(images.to(model.device, model.dtype), given).logits
            answers.append(logits.argmax(dim=1).cpu())
            labels.append(batch_labels)
    return Predictions(torch.cat(labels).numpy(), torch.cat(answers).numpy())


def count_confusion(labels: Tensor, answers: Tensor, num_classes: int) -> Tensor:
    """(K, K) int64, row = true class, column = answer, of labels and answers (N,) int64."""
    return torch.bincount(labels * num_classes + answers, minlength=num_classes**2).view(num_classes, num_classes)
