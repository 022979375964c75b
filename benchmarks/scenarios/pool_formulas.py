"""ProtoPool's head written without this library: the released formula, and the best eager one.

Both take the same tensors as ours and give the logits (B, K). `noise` (K, P, S) is for comparing answers; without it
each draws its own, which is what is timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.kernels.similarity import activate

EPSILON = 1e-4
TEMPERATURE = 0.5
# The released program's way of making choices final: a scale that leaves nothing to choose.
HARD_SCALE = 1e4


@dataclass(frozen=True)
class Head:
    """What a head computes with.

    Attributes:
        features: (B, D, H, W).
        prototypes: (P, D).
        presence_logits: (K, P, S).
        weight: of the last layer, (K, K * S).
        slots: (K, S) int64, the choices once they are final; None while they are soft.
        scale: of the logits.
    """

    focal: Literal["distance", "similarity"]
    features: Tensor
    prototypes: Tensor
    presence_logits: Tensor
    weight: Tensor
    slots: Tensor | None
    scale: float

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """What gets gradients: features, prototypes, last layer and, while they are soft, the choices."""
        soft = (self.presence_logits,) if self.slots is None else ()
        return (self.features, self.prototypes, self.weight, *soft)

    def to(self, dtype: torch.dtype) -> Head:
        """The same in another dtype, with new leaves."""
        names = ("features", "prototypes", "presence_logits", "weight")
        tensors = {name: getattr(self, name).detach().to(dtype).requires_grad_() for name in names}
        return Head(self.focal, slots=self.slots, scale=self.scale, **tensors)


def original(head: Head, noise: Tensor | None = None) -> Tensor:
    """The released program: distances from two convolutions, pooled twice, mixed by einsum.

    It always mixes, with final choices too. It has focal="distance" only; the similarity of the paper is written here
    in its manner, on the map of similarities.
    """
    scaled = head.presence_logits * (head.scale if head.slots is None else HARD_SCALE)
    if noise is None:
        share = F.gumbel_softmax(scaled, tau=TEMPERATURE, dim=1)
    else:
        share = ((scaled + noise) / TEMPERATURE).softmax(dim=1)
    kernels = head.prototypes[:, :, None, None]
    length = F.conv2d(head.features**2, torch.ones_like(kernels))
    product = F.conv2d(head.features, kernels)
    distance = F.relu(length - 2 * product + (kernels**2).sum((1, 2, 3)).view(-1, 1, 1))  # (B, P, H, W)
    grid = distance.shape[2:]
    if head.focal == "distance":
        nearest, mean = (-F.max_pool2d(-distance, grid)).flatten(1), F.avg_pool2d(distance, grid).flatten(1)
        nearest, mean = (torch.einsum("bp,kps->bks", values, share) for values in (nearest, mean))
        slots = released_similarity(nearest) - released_similarity(mean)
    else:
        similarity = released_similarity(distance)
        focal = F.max_pool2d(similarity, grid).flatten(1) - F.avg_pool2d(similarity, grid).flatten(1)
        slots = torch.einsum("bp,kps->bks", focal, share)
    return F.linear(slots.flatten(1), head.weight)


def released_similarity(distance: Tensor) -> Tensor:
    return torch.log((distance + 1) / (distance + EPSILON))


def eager(head: Head, noise: Tensor | None = None) -> Tensor:
    """What a careful author would write in plain torch: one batched product, one product for both mixtures."""
    patches = head.features.flatten(2)  # (B, D, N)
    norms = patches.square().sum(1, keepdim=True) + head.prototypes.square().sum(1)[:, None]  # (B, P, N)
    distance = torch.baddbmm(norms, head.prototypes.expand(len(patches), -1, -1), patches, alpha=-2).clamp(min=0)
    if head.focal == "similarity":
        similarity = activate(distance, "log", EPSILON)
        return F.linear(in_slots(head, similarity.amax(2) - similarity.mean(2), noise), head.weight)
    pair = torch.cat((distance.amin(2), distance.mean(2)))  # (2 B, P)
    nearest, mean = activate(in_slots(head, pair, noise), "log", EPSILON).chunk(2)
    return F.linear(nearest - mean, head.weight)


def in_slots(head: Head, values: Tensor, noise: Tensor | None) -> Tensor:
    """Values (B, P) mixed or picked into the slots, (B, K * S)."""
    if head.slots is not None:
        return values[:, head.slots.flatten()]
    scaled = head.presence_logits.transpose(1, 2) * head.scale  # (K, S, P)
    if noise is None:
        share = F.gumbel_softmax(scaled, tau=TEMPERATURE, dim=2)
    else:
        share = ((scaled + noise.transpose(1, 2)) / TEMPERATURE).softmax(dim=2)
    return values @ share.flatten(0, 1).T
