"""The explanation of a tree: the decisions from the root to a leaf, and where they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from protokern.models.base import Decision, Leaf
from protokern.results.explanations import ClassExplanation, DecisionEnd, Explanation

_MOST_CLASSES = 3  # of a leaf that are named

Explained = TypeVar("Explained", bound=Explanation)


def follow_path(explanation: Explained, path: Sequence[Decision], leaf: Leaf) -> Explained:
    """The explanation of one image with its evidence as the decisions on `path`.

    Args:
        explanation: whose answer has the prototypes of `path` as its evidence, in their order.
        path: from the root on.
        leaf: where it ends.
    """

    def decided(one: ClassExplanation) -> ClassExplanation:
        if not one.evidence:
            return replace(one, other_points=0.0, own_points=0.0, foreign_points=0.0, num_own=0, num_foreign=0)
        steps = (
            replace(
                evidence,
                similarity=step.probability if step.is_present else 1 - step.probability,
                is_reason=True,
                is_present=step.is_present,
            )
            for evidence, step in zip(one.evidence, path, strict=True)
        )
        return replace(one, evidence=tuple(steps), other_points=0.0, own_points=0.0, foreign_points=0.0)

    probabilities = leaf.probabilities.cpu().numpy()
    best = np.argsort(-probabilities, kind="stable")[:_MOST_CLASSES].tolist()
    end = DecisionEnd(
        leaf=leaf.leaf,
        classes=tuple((k, float(probabilities[k])) for k in best),
        share=leaf.share,
        agrees=best[0] == explanation.predicted,
    )
    return replace(explanation, classes=tuple(map(decided, explanation.classes)), end=end)
