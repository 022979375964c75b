"""Tensors for a case: seeded, in the range a sigmoid gives, never zeros (arithmetic on zeros is faster than real)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.ops.cases import Case

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Inputs:
    """What every provider is given.

    Attributes:
        features: (B, D, H, W) float32 in the case's memory layout; a leaf.
        prototypes: (P, D) float32; a leaf. Half of them are exact patches, as after a push.
        grad: (B, P) float32, the gradient that arrives from above.
    """

    features: Tensor
    prototypes: Tensor
    grad: Tensor

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.features, self.prototypes))


def make_inputs(case: Case, *, requires_grad: bool, seed: int = 0, device: torch.device = CPU) -> Inputs:
    """The tensors of a case; the numbers depend on the seed alone, not on the device."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(case.images, case.depth, case.height, case.width, generator=generator)
    patches = features.permute(0, 2, 3, 1).reshape(-1, case.depth)  # (N, D)
    prototypes = torch.rand(case.prototypes, case.depth, generator=generator)
    pushed = torch.randint(patches.shape[0], (case.prototypes // 2,), generator=generator)
    prototypes[: len(pushed)] = patches[pushed]
    grad = torch.randn(case.images, case.prototypes, generator=generator)
    if case.layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    features, prototypes, grad = (tensor.to(device) for tensor in (features, prototypes, grad))
    return Inputs(features.requires_grad_(requires_grad), prototypes.requires_grad_(requires_grad), grad)
