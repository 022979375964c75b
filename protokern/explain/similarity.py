"""The similarity of a prototype and one patch: the number that explanations are about."""

from __future__ import annotations

from torch import Tensor

from protokern.models.base import PrototypeModel


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
