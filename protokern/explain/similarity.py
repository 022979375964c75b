"""The similarity of a prototype and one patch: the number that explanations are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from protokern.models.base import PrototypeModel


class Place(NamedTuple):
    """A prototype and where it looks in an image.

    Attributes:
        prototype: its index.
        patch: (row, column) in the grid of patches: usually the patch nearest to the prototype.
    """

    prototype: int
    patch: tuple[int, int]


def similarity_at(model: PrototypeModel, features: Tensor, prototypes: Tensor, patches: Tensor) -> Tensor:
    """Similarity of some prototypes to one patch each, the same patch in every image.

    It is the activation at that patch, before weights; for ProtoPool before the image's average is subtracted.

    Args:
        model: in evaluation mode.
        features: (B, D, H, W) of the images.
        prototypes: (T,) int64, their indices, on the same device; an index may occur several times.
        patches: (T,) int64, the patch of each prototype: flat index row * W' + column in the grid of patches.

    Returns:
        (B, T).

    Raises:
        ValueError: a patch is outside of the grid (on the CPU).
    """
    layer = model.prototype_layer
    distance = layer.distance_at(features, patches.expand(len(features), -1), prototypes)
    return layer.activate(distance)


def place_tensors(model: PrototypeModel, features: Tensor, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
    """Prototypes and flat patches, (T,) int64 each, of some places in the grid of `features` (B, D, H, W).

    Raises:
        ValueError: a patch is outside of the grid.
    """
    height, width = model.prototype_layer.prototype_size
    rows, columns = features.shape[2] - height + 1, features.shape[3] - width + 1
    flat = []
    for _, (row, column) in places:
        if not (0 <= row < rows and 0 <= column < columns):
            raise ValueError(f"patch: must be in the grid of {rows} x {columns} patches; got {(row, column)}.")
        flat.append(row * columns + column)
    prototypes = [place.prototype for place in places]
    return torch.tensor(prototypes, device=features.device), torch.tensor(flat, device=features.device)
