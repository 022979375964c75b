"""Forward and backward of TesNet's head, with and without its loss: ours, and the released formula.

The size is that of the release on CUB-200-2011: 80 images of 64 channels on a grid of 7 x 7, 200 classes with 10
prototypes each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pages.targets import TESNET_RATIO
from protokern.losses import Labels, LossCoefficients
from protokern.models import TesNet

Step = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class TesNetCase:
    """Sizes; `with_loss` adds the whole loss to the two readings of the features."""

    name: str
    with_loss: bool
    images: int = 80
    depth: int = 64
    side: int = 7
    classes: int = 200
    per_class: int = 10
    bound: float = TESNET_RATIO

    @property
    def size(self) -> str:
        return f"B{self.images} D{self.depth} {self.side}x{self.side} P{self.classes * self.per_class}"

    def smaller(self) -> TesNetCase:
        """With fewer images and classes, where no two patches are as near as rounding."""
        return replace(self, images=min(self.images, 8), classes=min(self.classes, 20))

    def steps(self) -> Mapping[str, Step]:
        """A step of ours, of the released formula, and of that in float64, on the same numbers."""
        model = make_model(self)
        head = make_head(self, model)
        return {
            "protokern": make_step("protokern", self, model, head),
            "original": make_step("original", self, model, head),
            "exact": make_step("original", self, model, head.to(torch.float64)),
        }


CASES = (TesNetCase("TesNet, head", False), TesNetCase("TesNet, loss", True))


@dataclass(frozen=True)
class Head:
    """What both compute from: features (B, D, H, W), prototypes (P, D), weights (K, P), labels (B,)."""

    features: Tensor
    prototypes: Tensor
    weight: Tensor
    labels: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.features, self.prototypes, self.weight

    def to(self, dtype: torch.dtype) -> Head:
        """Copies of another type that are leaves too."""
        features, prototypes, weight = (one.detach().to(dtype).requires_grad_() for one in self.leaves)
        return Head(features, prototypes, weight, self.labels)


def make_model(case: TesNetCase) -> TesNet:
    torch.manual_seed(0)
    model = TesNet(
        nn.Identity(),
        case.classes,
        prototypes_per_class=case.per_class,
        prototype_dim=case.depth,
        in_channels=case.depth,
        image_size=case.side,
    )
    with torch.no_grad():  # lengths other than 1, at which the orthonormality has a kink
        model.prototype_layer.prototypes.mul_(torch.rand(model.num_prototypes, 1) + 0.5)
    return model


def make_head(case: TesNetCase, model: TesNet) -> Head:
    """The model's own tensors, and features as after a sigmoid."""
    features = torch.rand(case.images, case.depth, case.side, case.side).requires_grad_()
    labels = torch.arange(case.images) % case.classes
    return Head(features, model.prototype_layer.prototypes, model.last_layer.weight, labels)


def ours(case: TesNetCase, model: TesNet, head: Head) -> list[Tensor]:
    """Logits and negative cosines; or the loss."""
    output = model.head(head.features)
    if case.with_loss:
        return [model.loss(output, Labels(head.labels), LossCoefficients()).total]
    return [output.logits, output.cosine_distances - 1]


def original(case: TesNetCase, model: TesNet, head: Head) -> list[Tensor]:
    """The same by the formulas of the released program."""
    x, p, weight = head.leaves
    unit = F.normalize(p, dim=1)[:, :, None, None]
    cosines = -F.conv2d(F.normalize(x, dim=1), unit)
    projections = F.conv2d(x, unit)
    nearest = -F.max_pool2d(-cosines, cosines.shape[2:]).flatten(1)
    logits = F.linear(F.max_pool2d(projections, projections.shape[2:]).flatten(1), weight)
    return [_original_loss(case, model, head, logits, nearest)] if case.with_loss else [logits, nearest]


def _original_loss(case: TesNetCase, model: TesNet, head: Head, logits: Tensor, cosines: Tensor) -> Tensor:
    own = model.class_identity.to(logits.dtype).T[head.labels]  # (B, P)
    largest = float(case.depth)
    cluster = (largest - ((largest - cosines) * own).amax(dim=1)).mean()
    separation = (largest - ((largest - cosines) * (1 - own)).amax(dim=1)).mean()
    l1 = (head.weight * (1 - model.class_identity.to(logits.dtype).T)).abs().sum()
    bases = head.prototypes.reshape(case.classes, case.per_class, case.depth)
    gram = bases @ bases.transpose(1, 2)
    orthonormality = torch.norm(gram - torch.eye(case.per_class).to(gram), p=1, dim=[1, 2]).sum()
    operators = bases.transpose(1, 2) @ bases
    pairs = operators[:, None] - operators[None] + 1e-10  # (K, K, D, D)
    apart = 0.5 * torch.linalg.vector_norm(pairs, dim=(2, 3)).sum() / math.sqrt(2)
    total = F.cross_entropy(logits, head.labels) + 0.8 * cluster - 0.08 * separation + 1e-4 * l1
    return total + 1e-4 * orthonormality - 1e-7 * apart


FORMULAS: dict[str, Callable[[TesNetCase, TesNet, Head], list[Tensor]]] = {"protokern": ours, "original": original}


def make_step(name: str, case: TesNetCase, model: TesNet, head: Head) -> Step:
    """Results and the gradients of all leaves, for one fixed gradient of the results."""
    generator = torch.Generator().manual_seed(1)
    shapes = [()] if case.with_loss else [(case.images, case.classes), (case.images, model.num_prototypes)]
    grads = [torch.randn(shape, generator=generator).to(head.features) for shape in shapes]

    def step() -> list[Tensor]:
        results = FORMULAS[name](case, model, head)
        return [*(one.detach() for one in results), *torch.autograd.grad(results, head.leaves, grads)]

    return step
