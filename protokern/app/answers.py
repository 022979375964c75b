"""What a net answers to all images of a split: logits, and how every prototype responds to every image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from protokern.models.base import PrototypeModel
from protokern.nn import evaluating


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers to N images, on the CPU.

    Attributes:
        labels: (N,) int64.
        logits: (N, K).
        abstains: (N,) bool.
        activation, distance: (N, P).
        patch: (N, P) int32, row * columns + column in `grid`.
        grid: rows and columns of the patches.
    """

    labels: Tensor
    logits: Tensor
    abstains: Tensor
    activation: Tensor
    distance: Tensor
    patch: Tensor
    grid: tuple[int, int]

    @property
    def answer(self) -> Tensor:
        """(N,) int64, the class with the highest logit."""
        return self.logits.argmax(dim=1)

    @property
    def probability(self) -> Tensor:
        """(N,) float64, of the answers."""
        return self.logits.double().softmax(dim=1).amax(dim=1)

    @property
    def is_right(self) -> Tensor:
        """(N,) bool."""
        return (self.answer == self.labels) & ~self.abstains

    def columns(self, rows: Sequence[int]) -> Answers:
        """Of some prototypes, in this order; the logits are those of the net with all."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return replace(
            self, activation=self.activation[:, index], distance=self.distance[:, index], patch=self.patch[:, index]
        )


@torch.no_grad()
def collect_answers(
    model: PrototypeModel,
    features: Iterable[tuple[Tensor, Tensor]],
    *,
    after_batch: Callable[[], None] = lambda: None,
) -> Answers | None:
    """The answers of a net to images, by their features; None if there is no image.

    Args:
        model: whose choices are final.
        features: batches of features (B, D, H, W) and labels (B,).
        after_batch: called after every batch.
    """
    parts = []
    with evaluating(model):
        grid = (0, 0)
        for batch, labels in features:
            rows, columns = model.prototype_layer.prototype_size
            grid = (batch.shape[2] - rows + 1, batch.shape[3] - columns + 1)
            output = model.head(batch)
            numbers = (output.logits, output.activations, output.min_distances)
            parts.append(
                (
                    labels.cpu(),
                    *(one.float().cpu() for one in numbers),
                    output.patches.to(torch.int32).cpu(),
                    model.abstains(output).cpu(),
                )
            )
            after_batch()
    if not parts:
        return None
    labels, logits, activation, distance, patch, abstains = (torch.cat(one) for one in zip(*parts, strict=True))
    return Answers(
        labels=labels,
        logits=logits,
        abstains=abstains,
        activation=activation,
        distance=distance,
        patch=patch,
        grid=grid,
    )
