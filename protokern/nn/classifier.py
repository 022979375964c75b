"""The last layer: from prototype activations to class logits, without bias so that points add up to the logit."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PrototypeClassifier(nn.Linear):
    """Bias-free linear layer P -> K whose initial weights depend on which prototype belongs to which class.

    Args:
        class_identity: one-hot (P, K).
        correct_class_weight: initial weight from a prototype to its own class.
        incorrect_class_weight: initial weight from a prototype to every other class.
    """

    def __init__(
        self,
        class_identity: Tensor,
        *,
        correct_class_weight: float = 1.0,
        incorrect_class_weight: float = -0.5,
    ) -> None:
        num_prototypes, num_classes = class_identity.shape
        super().__init__(num_prototypes, num_classes, bias=False)
        with torch.no_grad():
            own = class_identity.T.to(self.weight)  # (K, P)
            self.weight.copy_(correct_class_weight * own + incorrect_class_weight * (1 - own))

    def keep_prototypes(self, index: Tensor) -> None:
        """Drop the columns of all prototypes but those in `index` (P',) int64."""
        self.weight = nn.Parameter(self.weight.detach()[:, index].clone(), requires_grad=self.weight.requires_grad)
        self.in_features = len(index)

    def set_weight(self, weight: Tensor) -> None:
        """Replace the weights by `weight` (K, P'), for any number of prototypes."""
        self.weight = nn.Parameter(weight.to(self.weight).clone(), requires_grad=self.weight.requires_grad)
        self.in_features = weight.shape[1]


class SlotSum(nn.Module):
    """The sum over the slots of each class: a last layer that learns nothing.

    Args:
        num_classes: K; the input is (B, K * S), class by class and slot by slot.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, slots: Tensor) -> Tensor:
        """(B, K)."""
        return slots.unflatten(1, (self.num_classes, -1)).sum(dim=2)
