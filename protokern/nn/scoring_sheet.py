"""A sparse sheet of scores that are never negative, from presences to classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScoringSheet(nn.Module):
    """From presences (B, P) to scores (B, K): presence times weight, where weights below 0 count as 0.

    Args:
        num_prototypes: P, >= 1.
        num_classes: K, >= 1.
        bias: add a learnt number for every class, which is not below 0 after `shrink`.

    Attributes:
        weight: parameter (K, P) before negative ones become 0; starts normal with mean 1 and standard deviation 0.1.
        bias: parameter (K,), starts at 0; None without one.

    Source: Nauta et al. 2023 (PIP-Net), section 3.
    """

    def __init__(self, num_prototypes: int, num_classes: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, num_prototypes).normal_(1.0, 0.1))
        self.bias: nn.Parameter | None
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_classes)) if bias else None)

    @property
    def points(self) -> Tensor:
        """(K, P), the weights that count, >= 0."""
        return self.weight.relu()

    def forward(self, presences: Tensor) -> Tensor:
        """(B, K)."""
        return F.linear(presences, self.points, self.bias)

    @torch.no_grad()
    def shrink(self, amount: float) -> None:
        """Take `amount` from every weight, down to 0; a bias below 0 becomes 0."""
        self.weight.sub_(amount).clamp_(min=0)
        if self.bias is not None:
            self.bias.clamp_(min=0)

    def keep_prototypes(self, index: Tensor) -> None:
        """Drop the columns of all prototypes but those in `index` (P',) int64."""
        self.weight = nn.Parameter(self.weight.detach()[:, index].clone(), requires_grad=self.weight.requires_grad)
