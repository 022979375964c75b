"""The scores of a model whose logits are not the sums of its points, and what it has to say where it has no answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch

from protokern.models.base import ModelOutput, PrototypeModel
from protokern.results.explanations import Explanation, Faint

_MOST_FAINT = 3

Explained = TypeVar("Explained", bound=Explanation)


def add_scores(explanation: Explained, model: PrototypeModel, output: ModelOutput) -> Explained:
    """The explanation of the one image of `output`, with the score of each class, and whether the model abstains.

    As it is, if the points of the model add up to its logits. A model that always answers has logits as its scores, and
    may add a bias.
    """
    if not model.can_abstain:
        bias = None if model.score_bias is None else model.score_bias.detach().double().cpu()
        if bias is None:
            return explanation
        return replace(
            explanation, classes=tuple(replace(one, bias=float(bias[one.class_index])) for one in explanation.classes)
        )
    scores = model.scores(output)[0].detach().double().cpu()
    points = torch.as_tensor(explanation.points).sum(dim=0)  # (K,)
    has_bias = model.score_bias is not None
    classes = tuple(
        replace(
            one,
            score=float(scores[one.class_index]),
            bias=float(scores[one.class_index] - points[one.class_index]) if has_bias else 0.0,
        )
        for one in explanation.classes
    )
    if not bool(model.abstains(output)[0]):
        return replace(explanation, classes=classes)
    presence = model.prototype_layer.activate(output.min_distances[0].detach()).double().cpu()
    is_used = (model.class_identity > 0).any(dim=1).cpu()
    presence = torch.where(is_used, presence, 0)
    strongest = presence.argsort(descending=True, stable=True)[:_MOST_FAINT].tolist()
    nearly = tuple((j, float(presence[j])) for j in strongest if presence[j] > 0)
    faint = Faint(prototypes=nearly, smallest=model.smallest_similarity)
    return replace(explanation, classes=classes, abstains=True, faint=faint)
