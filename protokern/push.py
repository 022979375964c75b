"""The push: every prototype becomes the nearest patch of its own class. No drawing and no files."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from protokern.models.base import PrototypeModel
from protokern.search import Loader, find_nearest_patches


@dataclass(frozen=True)
class PushResult:
    """Where every prototype comes from; CPU tensors.

    Attributes:
        image: (P,) int64, position in the loader's order; -1 for a prototype without any image of its class.
        patch: (P,) int64, flat index row * W' + column in `grid`; -1 likewise.
        distance: (P,), from the prototype before the push to the patch; inf likewise.
        label: (P,) int64, the image's label, which is the prototype's class; -1 likewise.
        grid: (H', W'), rows and columns of the distance grid.
    """

    image: Tensor
    patch: Tensor
    distance: Tensor
    label: Tensor
    grid: tuple[int, int]


def push_prototypes(model: PrototypeModel, loader: Loader) -> PushResult:
    """Replace each prototype by the nearest patch among the images of its class; the first in order on a tie.

    One pass over the loader. Afterwards each prototype's smallest distance on these images is 0 up to the rounding of
    the backbone. A prototype whose class has no image keeps its vector; a warning names it.

    Args:
        model: its `prototype_layer.prototypes` are changed in place (the parameter stays the same object).
        loader: yields (images, labels) in order, un-augmented.

    Raises:
        ValueError: as `find_nearest_patches`; the prototypes are unchanged then.

    Source: Chen et al. 2019 (ProtoPNet), section 2.2, "Projection of prototypes".
    """
    nearest = find_nearest_patches(model, loader, k=1, own_class=True, vectors=True)
    assert nearest.vector is not None
    is_found = nearest.image[:, 0] >= 0  # (P,)
    prototypes = model.prototype_layer.prototypes
    with torch.no_grad():
        vector = nearest.vector[:, 0].reshape(prototypes.shape).to(prototypes)
        found = is_found.to(prototypes.device).reshape(-1, *[1] * (prototypes.ndim - 1))
        prototypes.copy_(torch.where(found, vector, prototypes))
    lost = (~is_found).nonzero().flatten().tolist()
    if lost:
        classes = sorted(set(model.prototype_class[lost].tolist()))
        warnings.warn(
            f"loader: has no image of the classes {classes}; the prototypes {lost} keep their vectors.", stacklevel=2
        )
    return PushResult(
        image=nearest.image[:, 0],
        patch=nearest.patch[:, 0],
        distance=nearest.distance[:, 0],
        label=nearest.label[:, 0],
        grid=nearest.grid,
    )
