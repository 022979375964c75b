"""Projections onto unit prototypes and cosines, which TesNet and its descendants read from the same features."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from protokern.kernels import distance_at, distance_map, min_distance

from .base import Accelerated, as_program, as_rows


class Projections(Accelerated):
    """The two readings, as maps and at the best patch.

    Features are (B, D, H, W), prototypes (P, D, h, w). The ops' distances are -x.p for "dot" and 1 - cos for "cosine".
    The programs make every cell of a prototype a unit vector, so prototypes of several cells are products of such.
    """

    def _protokern_projections(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Projections (B, P, H', W') of every patch."""
        return as_program(-distance_map(features, _unit_rows(vectors), **self._protokern_map_options("dot")), features)

    def _protokern_cosines(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Cosines (B, P, H', W') of every patch."""
        if vectors.shape[2:] != (1, 1):
            return self._protokern_projections(F.normalize(features, dim=1), vectors)
        distances = distance_map(features, vectors.flatten(1), **self._protokern_map_options("cosine"))
        return as_program(1 - distances, features)

    def _protokern_largest_projection(self, features: Tensor, vectors: Tensor) -> Tensor:
        """(B, P)."""
        nearest = min_distance(features, _unit_rows(vectors), metric="dot", **self._protokern_options())
        return as_program(-nearest.value, features)

    def _protokern_largest_cosine(self, features: Tensor, vectors: Tensor) -> Tensor:
        """(B, P)."""
        if vectors.shape[2:] != (1, 1):
            return self._protokern_largest_projection(F.normalize(features, dim=1), vectors)
        nearest = min_distance(features, vectors.flatten(1), metric="cosine", **self._protokern_options())
        return as_program(1 - nearest.value, features)

    def _protokern_projection_at_largest(self, maps: Tensor, features: Tensor, vectors: Tensor) -> Tensor:
        """Projections (B, P) at the largest of `maps` (B, P, H', W'); their gradient makes no map."""
        patch = maps.detach().flatten(2).argmax(2)
        at_patch = distance_at(features, _unit_rows(vectors), patch, **self._protokern_map_options("dot"))
        return as_program(-at_patch, features)

    def _protokern_cosine_at_largest(self, maps: Tensor, features: Tensor, vectors: Tensor) -> Tensor:
        """Cosines (B, P) at the largest of `maps` (B, P, H', W'); their gradient makes no map."""
        if vectors.shape[2:] != (1, 1):
            return self._protokern_projection_at_largest(maps, F.normalize(features, dim=1), vectors)
        patch = maps.detach().flatten(2).argmax(2)
        at_patch = distance_at(features, vectors.flatten(1), patch, **self._protokern_map_options("cosine"))
        return as_program(1 - at_patch, features)

    def _protokern_map_options(self, metric: str) -> dict[str, Any]:
        return {"metric": metric, "backend": self.protokern_backend}


def _unit_rows(vectors: Tensor) -> Tensor:
    return as_rows(F.normalize(vectors, dim=1))
