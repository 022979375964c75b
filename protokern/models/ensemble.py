"""Several trained models that answer together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from protokern.models.base import ModelOutput, PrototypeModel

Combination = Literal["sum", "mean"]
COMBINATIONS: tuple[Combination, ...] = ("sum", "mean")


@dataclass(frozen=True)
class EnsembleOutput:
    """The output of an ensemble for a batch.

    Attributes:
        logits: (B, K).
        members: of every model, in order.
    """

    logits: Tensor
    members: tuple[ModelOutput, ...]


def adds_up(model: PrototypeModel) -> bool:
    """Whether the points of a model add up to its logits."""
    return model.reasons == "points" and type(model).scores is PrototypeModel.scores


class Ensemble(nn.Module):
    """Several models with the same classes, each with a backbone of its own.

    Args:
        models: at least two.
        combine: "sum": the logits are the sums of the models' logits, so the points of all of them add up; "mean": they
            are the logarithms of the mean probabilities; "auto": "sum" if the points of every model add up to its
            logits, else "mean". An ensemble always answers, also where a member abstains.

    Attributes:
        models: in order.
        combine: "sum" or "mean".

    Raises:
        ValueError: there are fewer than two models, they have other numbers of classes, or `combine` is unknown.

    Source: Chen et al. 2019 (ProtoPNet), section 3, for the sum; Nauta et al. 2021 (ProtoTree), section 4, for the
        mean.
    """

    def __init__(self, models: Sequence[PrototypeModel], combine: Combination | Literal["auto"] = "auto") -> None:
        super().__init__()
        if len(models) < 2:
            raise ValueError(f"models: must be at least two; got {len(models)}. A single model answers for itself.")
        counts = [model.num_classes for model in models]
        if len(set(counts)) > 1:
            known = ", ".join(map(str, counts))
            raise ValueError(
                f"models: must have the same classes; got models of {known} classes. Leave out the others."
            )
        if combine not in (*COMBINATIONS, "auto"):
            wanted = ", ".join((*COMBINATIONS, "auto"))
            raise ValueError(f"combine: must be one of {wanted}; got {combine!r}. Check the spelling.")
        self.models = nn.ModuleList(models)
        if combine == "auto":
            combine = "sum" if all(map(adds_up, models)) else "mean"
        self.combine: Combination = combine

    @property
    def members(self) -> tuple[PrototypeModel, ...]:
        """The models."""
        return tuple(model for model in self.models if isinstance(model, PrototypeModel))

    @property
    def num_classes(self) -> int:
        """K."""
        return self.members[0].num_classes

    @property
    def num_prototypes(self) -> int:
        """Of all models together."""
        return sum(model.num_prototypes for model in self.members)

    def forward(self, images: Tensor) -> EnsembleOutput:
        """The output for images (B, C, Y, X), which all models take."""
        outputs = tuple(model(images) for model in self.models)
        logits = torch.stack([output.logits for output in outputs])  # (M, B, K)
        if self.combine == "sum":
            return EnsembleOutput(logits.sum(dim=0), outputs)
        mean = logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(outputs))
        return EnsembleOutput(mean, outputs)
