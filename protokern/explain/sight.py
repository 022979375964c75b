"""What is kept of an explained image, so that later questions about it need no second pass of the net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from protokern.explain.views import see, view_patches, with_heat_map
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating
from protokern.results.contrast import ContrastRow
from protokern.results.explanations import Evidence
from protokern.results.places import ReceptiveField
from protokern.results.prototypes import Prototype


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sight:
    """One image as one model saw it, whose reasons are points.

    Attributes:
        model: whose similarities they are; it is not run again.
        image: (C, Y, X).
        picture: (Y, X, 3) uint8, the image for people.
        features: (D, H, W).
        patches: (P,) int64, the nearest patch of every prototype.
        receptive_field: of the model for images of this size.
        heat_map: how heat maps are computed, see `explain_image`.
        distance, similarity: (P,), of these patches.
        weight: (K, P).
        cards: of all prototypes.
    """

    model: PrototypeModel
    image: Tensor
    picture: np.ndarray
    features: Tensor
    patches: Tensor
    receptive_field: ReceptiveField
    heat_map: str
    distance: np.ndarray
    similarity: np.ndarray
    weight: np.ndarray
    cards: tuple[Prototype, ...]

    @property
    def bias(self) -> np.ndarray:
        """(K,), what is added to the points of every class."""
        bias = self.model.score_bias
        return np.zeros(len(self.weight)) if bias is None else bias.detach().double().cpu().numpy()

    def rows(self, prototypes: Sequence[int], a: int, b: int) -> tuple[ContrastRow, ...]:
        """What some prototypes say for class `a` rather than `b`, with the places where they looked."""
        with evaluating(self.model):
            views = view_patches(
                self.model, self.features, self.patches, prototypes, self.image.shape[1:], self.receptive_field
            )
        views = with_heat_map(self.model, self.image, views, self.heat_map)
        rows = []
        for j, view in zip(prototypes, views, strict=True):
            similarity, of_a, of_b = float(self.similarity[j]), float(self.weight[a, j]), float(self.weight[b, j])
            card = self.cards[j]
            evidence = Evidence(
                view=view,
                picture=see(self.picture, view, self.heat_map),
                prototype=card,
                prototype_classes=tuple(one.class_index for one in card.classes),
                slots=(),
                distance=float(self.distance[j]),
                similarity=similarity,
                weight=of_a - of_b,
                points=similarity * (of_a - of_b),
                is_reason=similarity * (of_a - of_b) > 0,
            )
            rows.append(
                ContrastRow(
                    evidence=evidence,
                    weight_a=of_a,
                    weight_b=of_b,
                    points_a=similarity * of_a,
                    points_b=similarity * of_b,
                )
            )
        return tuple(rows)
