"""The push: every prototype becomes the nearest patch of its own class. No drawing and no files."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from protokern.models.base import PrototypeModel
from protokern.search import Loader, NearestPatches, find_nearest_patches


@dataclass(frozen=True)
class PushResult:
    """Where every prototype comes from; CPU tensors.

    Attributes:
        image: (P,) int64, position in the loader's order; -1 for a prototype that is no patch: it has no class, or its
            classes have no image.
        patch: (P,) int64, flat index row * W' + column in `grid`; -1 likewise.
        distance: (P,), from the prototype before the push to the patch; inf likewise.
        label: (P,) int64, the image's label, which is a class of the prototype; -1 likewise.
        grid: (H', W'), rows and columns of the distance grid.
    """

    image: Tensor
    patch: Tensor
    distance: Tensor
    label: Tensor
    grid: tuple[int, int]


def push_prototypes(model: PrototypeModel, loader: Loader) -> PushResult:
    """Replace each prototype by the nearest patch among the images of its classes; the first in order on a tie.

    One pass over the loader. Afterwards each prototype's smallest distance on these images is 0 up to the rounding of
    the backbone. A prototype that no class uses keeps its vector, and so does one whose classes have no image; a
    warning names them.

    Args:
        model: its `prototype_layer.prototypes` are changed in place (the parameter stays the same object).
        loader: yields (images, labels) in order, un-augmented.

    Raises:
        ValueError: as `find_nearest_patches`, or the model still chooses which prototypes its classes use; the
            prototypes are unchanged then.

    Source: Chen et al. 2019 (ProtoPNet), section 2.2, "Projection of prototypes"; Rymarczyk et al. 2022 (ProtoPool),
        section 3.4, for prototypes that several classes share.
    """
    _check_hard(model)
    return apply_push(model, find_nearest_patches(model, loader, k=1, own_class=True, vectors=True))


def apply_push(model: PrototypeModel, nearest: NearestPatches) -> PushResult:
    """The push from what a search found, for instance in several parts that were merged.

    Args:
        model: as in `push_prototypes`, with the prototypes that the search looked for.
        nearest: found with own_class=True and vectors=True; of several entries the first counts.

    Raises:
        ValueError: `nearest` has no vectors, is of other prototypes or has images of other classes than theirs, or the
            choices of the model are soft; the prototypes are unchanged then.
    """
    _check_hard(model)
    if nearest.vector is None:
        raise ValueError("nearest: must have the vectors of its patches; it has none. Search with vectors=True.")
    if len(nearest.image) != model.num_prototypes:
        raise ValueError(
            f"nearest: must be of the model's {model.num_prototypes} prototypes; got {len(nearest.image)}. "
            "Search with this model."
        )
    is_found = nearest.image[:, 0] >= 0  # (P,)
    has_class = model.class_identity.cpu() > 0  # (P, K)
    is_own = has_class.gather(1, nearest.label[:, :1].clamp(min=0))[:, 0]
    strangers = (is_found & ~is_own).nonzero().flatten()
    if len(strangers):
        first = int(strangers[0])
        raise ValueError(
            f"nearest: must be of images of each prototype's classes; prototype {first} has one of class "
            f"{int(nearest.label[first, 0])}. Search with own_class=True."
        )
    prototypes = model.prototype_layer.prototypes
    with torch.no_grad():
        vector = nearest.vector[:, 0].reshape(prototypes.shape).to(prototypes)
        found = is_found.to(prototypes.device).reshape(-1, *[1] * (prototypes.ndim - 1))
        prototypes.copy_(torch.where(found, vector, prototypes))
    unused = (~has_class.any(dim=1)).nonzero().flatten().tolist()
    if unused:
        warnings.warn(f"model: no class uses the prototypes {unused}; they keep their vectors.", stacklevel=2)
    lost = (~is_found & has_class.any(dim=1)).nonzero().flatten().tolist()
    if lost:
        classes = has_class[lost].any(dim=0).nonzero().flatten().tolist()
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


def _check_hard(model: PrototypeModel) -> None:
    if not model.is_hard:
        raise ValueError(
            "model: must have made its choices final before a push; they are soft. Call model.harden() first."
        )
