"""A step of ProtoTree's head with the update of its leaves: ours, and the released recursion over nodes.

The size is that of the release on CUB-200-2011: 64 images of 256 channels on a grid of 7 x 7, a tree of depth 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pages.targets import PROTOTREE_RATIO
from protokern.losses import Labels, LossCoefficients
from protokern.models import ProtoTree

Step = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class ProtoTreeCase:
    """Sizes; `batches` is the number of batches of an epoch."""

    name: str
    images: int = 64
    depth: int = 256
    side: int = 7
    levels: int = 9
    classes: int = 200
    batches: int = 469
    bound: float = PROTOTREE_RATIO

    @property
    def size(self) -> str:
        return f"B{self.images} D{self.depth} {self.side}x{self.side} P{2**self.levels - 1}"

    def smaller(self) -> ProtoTreeCase:
        """With fewer images and levels."""
        return replace(self, images=min(self.images, 8), levels=min(self.levels, 4))

    def steps(self) -> Mapping[str, Step]:
        """A step of ours, of the released recursion, and of that in float64, on the same numbers.

        Each gives the loss, the gradients of features and prototypes, and the leaves after their update, which always
        starts from the same leaves.
        """
        torch.manual_seed(0)
        model = ProtoTree(
            nn.Identity(),
            self.classes,
            depth=self.levels,
            prototype_dim=self.depth,
            in_channels=self.depth,
            image_size=self.side,
        )
        features = (0.5 + 0.1 * torch.randn(self.images, self.depth, self.side, self.side)).requires_grad_()
        labels = torch.arange(self.images) % self.classes
        leaves = 3 * torch.rand_like(model.last_layer.leaf_logits)
        prototypes = model.prototype_layer.prototypes
        wide, wide_prototypes = (one.detach().double().requires_grad_() for one in (features, prototypes))
        return {
            "protokern": lambda: _ours(self, model, features, labels, leaves),
            "original": lambda: _original(self, features, prototypes, labels, leaves),
            "exact": lambda: _original(self, wide, wide_prototypes, labels, leaves.double()),
        }


CASES = (ProtoTreeCase("ProtoTree, step"),)


def _ours(case: ProtoTreeCase, model: ProtoTree, features: Tensor, labels: Tensor, leaves: Tensor) -> list[Tensor]:
    model.last_layer.leaf_logits.copy_(leaves)
    model.start_epoch(case.batches)
    output = model.head(features)
    loss = model.loss(output, Labels(labels), LossCoefficients()).total
    grads = torch.autograd.grad(loss, (features, model.prototype_layer.prototypes))
    model.after_step(output, labels)
    return [loss.detach(), *grads, model.last_layer.leaf_logits.clone()]


class _Branch:
    """Sends an image right with the probability that its prototype is present."""

    def __init__(self, number: int, absent: _Branch | _Leaf, present: _Branch | _Leaf) -> None:
        self.number, self.absent, self.present = number, absent, present

    def forward(self, present: Tensor, reach: Tensor) -> Tensor:
        here = present[:, self.number, None]  # (B, 1)
        left = self.absent.forward(present, (1 - here) * reach)
        right = self.present.forward(present, here * reach)
        return (1 - here) * left + here * right


class _Leaf:
    """Answers with its distribution, and remembers with which probability images reached it."""

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts  # (K,)
        self.reach: Tensor | None = None

    def forward(self, present: Tensor, reach: Tensor) -> Tensor:
        self.reach = reach  # (B, 1)
        return self.counts.softmax(dim=0).expand(len(present), -1)

    def updated(self, answer: Tensor, labels: Tensor, batches: int) -> Tensor:
        assert self.reach is not None
        of_label = F.one_hot(labels, len(self.counts)) / answer  # (B, K)
        added = (self.reach.detach() * self.counts.softmax(dim=0) * of_label).sum(dim=0)
        return (self.counts - self.counts / batches).relu() + added


def _original(
    case: ProtoTreeCase, features: Tensor, prototypes: Tensor, labels: Tensor, leaves: Tensor
) -> list[Tensor]:
    ends: list[_Leaf] = []
    root = _grow(0, 2**case.levels - 1, leaves, ends)
    kernels = prototypes[:, :, None, None]
    squares = F.conv2d(features**2, torch.ones_like(kernels))
    products = F.conv2d(features, kernels)
    distances = (squares + (prototypes**2).sum(dim=1)[:, None, None] - 2 * products).abs()
    distances = (distances + 1e-14).sqrt()
    present = (F.max_pool2d(-distances, distances.shape[2:]).flatten(1)).exp()  # (B, P)
    answer = root.forward(present, torch.ones_like(present[:, :1]))
    loss = F.nll_loss(answer.log(), labels)
    grads = torch.autograd.grad(loss, (features, prototypes))
    updated = [leaf.updated(answer.detach(), labels, case.batches) for leaf in ends]
    return [loss.detach(), *grads, torch.stack(updated)]


def _grow(number: int, branches: int, leaves: Tensor, ends: list[_Leaf]) -> _Branch | _Leaf:
    """The node of a number, level by level, and all below it; leaves in the order of `leaves` go to `ends`."""
    if number >= branches:
        ends.append(_Leaf(leaves[number - branches]))
        return ends[-1]
    absent = _grow(2 * number + 1, branches, leaves, ends)
    return _Branch(number, absent, _grow(2 * number + 2, branches, leaves, ends))
