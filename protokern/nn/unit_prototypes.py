"""Prototypes of unit length, on which patches are projected, with their cosine as a second reading."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.kernels import min_distance
from protokern.nn.prototype_layer import PrototypeLayer


class UnitPrototypeLayer(PrototypeLayer):
    """A `PrototypeLayer` that compares with p / |p|, so that only the direction of a prototype p counts.

    Gradients are those of p / |p|. The parameter has unit length at the start and after `normalise`.

    Args:
        arguments, settings: those of `PrototypeLayer`.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.normalise()

    def normalise(self) -> None:
        """Give the parameter unit length, in place; no result changes beyond rounding."""
        with torch.no_grad():
            self.prototypes.copy_(unit_vectors(self.prototypes))

    def cosine_distance(self, features: Tensor) -> Tensor:
        """1 - cos at the patch where the cosine is largest, (B, P) in [0, 2], for features (B, D, H, W).

        That patch is another one than the nearest of `forward` where a longer vector has the larger projection.
        """
        return min_distance(
            features, self._chosen(None), metric="cosine", precision=self.precision, backend=self.backend
        ).value

    def _chosen(self, prototype_index: Tensor | None) -> Tensor:
        return unit_vectors(super()._chosen(prototype_index))


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors (S, D, ...) over the length of all their cells; a zero vector stays."""
    return F.normalize(vectors.flatten(1), dim=1).view_as(vectors)
