"""ProtoViT: prototypes of several sub-patches, each matched with a patch of its own near the one before.

Source: the class PPNet in github.com/Henrymachiyu/ProtoViT, model.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from protokern.kernels import distance_at, distance_map, min_distance

from .base import Accelerated, as_program
from .trial import Trial

# The programs' grid, which is written into their code.
_SIDE = 14


class AcceleratedProtoViT(Accelerated):
    """ProtoViT's greedy matching without the cosines of all patches; its forward pass is the program's."""

    prototype_vectors: Tensor
    patch_select: Tensor
    temp: float
    radius: int
    conv_features: Callable[[Tensor], Tensor]

    def subpatch_dist(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D, H, W) of images, and cosines (B, P, N, S) of every patch with every sub-patch."""
        features = self.conv_features(x)
        distances = distance_map(features, self._protokern_rows(), metric="cosine", backend=self.protokern_backend)
        return features, self._protokern_by_prototype(as_program(1 - distances, features).flatten(2)).transpose(2, 3)

    def greedy_distance(self, x: Tensor, get_f: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Similarities (B, P) of images, distances S minus them, and the cosines (B, P, S) of the sub-patches.

        With `get_f`: features (B, D, H, W), the distances, and the patches (B, P, S) in float32.

        Raises:
            ValueError: the grid is too small for the sub-patches.
        """
        features, rows = self.conv_features(x), self._protokern_rows()
        options: dict[str, Any] = {"metric": "cosine", "backend": self.protokern_backend}

        def at(patch: Tensor) -> Tensor:
            by_row = patch.flatten(1, 2)  # (B, P S, m)
            return self._protokern_by_prototype(distance_at(features, rows, by_row, **options))

        with torch.no_grad():
            first = min_distance(features, rows, metric="cosine", **self._protokern_options())
            nearest = self._protokern_by_prototype(first.value), self._protokern_by_prototype(first.patch)
            patch = match_greedily(*nearest, at, features.shape[2:], self.radius)
        cosines = as_program(1 - at(patch[..., None])[..., 0], features)
        return self._protokern_answers(features, cosines, patch, get_f)

    def protokern_outputs(self, features: Tensor, maps: Tensor, get_f: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What the program's `greedy_distance` returns for its own cosines (B, P, N, S)."""
        distances = 1 - maps.transpose(2, 3)  # (B, P, S, N)
        first = distances.min(dim=3)
        patch = match_greedily(*first, lambda near: distances.gather(3, near), features.shape[2:], self.radius)
        cosines = maps.transpose(2, 3).gather(3, patch[..., None])[..., 0]
        return self._protokern_answers(features, cosines, patch, get_f)

    def _protokern_rows(self) -> Tensor:
        """The sub-patches, (P S, D)."""
        return self.prototype_vectors.transpose(1, 2).flatten(0, 1)

    def _protokern_by_prototype(self, values: Tensor) -> Tensor:
        """(B, P S, ...) as (B, P, S, ...)."""
        count, _, parts = self.prototype_vectors.shape
        return values.unflatten(1, (count, parts))

    def _protokern_answers(
        self, features: Tensor, cosines: Tensor, patch: Tensor, get_f: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = cosines.shape[2]
        slots = torch.sigmoid(self.patch_select * self.temp)  # (1, P, S)
        similarities = (cosines * (slots * parts / (slots.sum(-1, keepdim=True) + 1e-10))).sum(-1)
        if get_f:
            return features, parts - similarities, patch.to(torch.float32)
        return similarities, parts - similarities, cosines

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare the cosines, and what `greedy_distance` makes of them."""
        depth = trial.before.prototype_vectors.shape[1]
        features = trial.draw(2, depth, _SIDE, _SIDE, lowest=-1)
        trial.pretend("conv_features", features)
        maps = trial.ask("subpatch_dist", trial.image)[1]
        trial.compare("subpatch_dist", maps, trial.after.subpatch_dist(trial.image)[1], 1.0)
        for get_f in (False, True):
            answer = trial.ask("greedy_distance", trial.image, get_f=get_f)
            trial.compare("greedy_distance", answer, trial.after.protokern_outputs(features, maps, get_f))
        return ""


@torch.no_grad()
def match_greedily(
    value: Tensor, patch: Tensor, at: Callable[[Tensor], Tensor], grid: tuple[int, ...], radius: int
) -> Tensor:
    """Patches of the sub-patches, chosen one after the other, each free and within `radius` of the one before.

    Args:
        value: distance of every sub-patch to its nearest patch, (B, P, S).
        patch: that patch, row * W + column, (B, P, S).
        at: the distances (B, P, S, m) of the sub-patches at given patches of the same shape.
        grid: (H, W).
        radius: in rows and in columns.

    Returns:
        (B, P, S) int64.

    Raises:
        ValueError: all patches within the radius of a corner may be taken before the last sub-patch.
    """
    parts = value.shape[2]
    if min(grid[0], radius + 1) * min(grid[1], radius + 1) < parts:
        raise ValueError(
            f"radius: must leave a free patch for each of {parts} sub-patches; got {radius} on a grid of "
            f"{grid[0]} x {grid[1]}. Raise it."
        )
    chosen = torch.zeros_like(patch)
    is_free = torch.ones_like(patch, dtype=torch.bool)
    taken: list[Tensor] = []
    for _ in range(parts):
        if taken:
            near, is_allowed = _neighbours(taken[-1], grid, radius)  # (B, P, m)
            for other in taken:
                is_allowed &= near != other[..., None]
            distances = at(near[:, :, None].expand(-1, -1, parts, -1))
            value, place = distances.masked_fill(~is_allowed[:, :, None], torch.inf).min(dim=3)
            patch = near.gather(2, place)
        best = value.masked_fill(~is_free, torch.inf).argmin(dim=2, keepdim=True)  # (B, P, 1)
        last = patch.gather(2, best)
        chosen.scatter_(2, best, last)
        is_free.scatter_(2, best, False)
        taken.append(last[..., 0])
    return chosen


def _neighbours(centre: Tensor, grid: tuple[int, ...], radius: int) -> tuple[Tensor, Tensor]:
    """The patches (B, P, m) around those of (B, P) in rising order, and which are inside of the grid."""
    height, width = grid
    steps = torch.arange(-radius, radius + 1, device=centre.device)
    row = (centre // width)[..., None, None] + steps[:, None]
    column = (centre % width)[..., None, None] + steps
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    near = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    return near.flatten(2), is_inside.flatten(2)
