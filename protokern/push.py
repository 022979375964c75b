"""The push: every prototype becomes the nearest patch of its own class. No drawing and no files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from protokern.models.base import Given, PrototypeModel, vectors_of
from protokern.search import Loader, NearestPatches, find_nearest_patches

# A prototype at most this far from a patch, without weights, is that patch: features that are computed again differ by
# less.
COPY_DISTANCE = 1e-6


@dataclass(frozen=True)
class PushResult:
    """Where every prototype comes from; CPU tensors.

    Attributes:
        image: (P,) int64, position in the loader's order; -1 for a prototype that is not a patch, because it has no
            class or its classes have no image.
        patch: (P,) int64, flat index row * W' + column in `grid`; -1 for the same prototypes.
        distance: (P,), from the prototype before the push to the patch, without the weights of patches; inf for the
            same prototypes. Under `metric="dot"` the negative projection.
        label: (P,) int64, the image's label, which is a class of the prototype; -1 for the same prototypes.
        grid: (H', W'), rows and columns of the distance grid.
        notices: which prototypes kept their vectors because there was no patch for them, in sentences.
    """

    image: Tensor
    patch: Tensor
    distance: Tensor
    label: Tensor
    grid: tuple[int, int]
    notices: tuple[str, ...] = ()

    def keep(self, kept: Tensor) -> PushResult:
        """Where the prototypes in `kept`, (P',) int64, come from, in that order."""
        return PushResult(
            image=self.image[kept],
            patch=self.patch[kept],
            distance=self.distance[kept],
            label=self.label[kept],
            grid=self.grid,
        )


class Search(Protocol):
    """What finds the nearest patches in the images of a push, as `find_nearest_patches` does in those of a loader."""

    def __call__(
        self, model: PrototypeModel, k: int, *, own_class: bool, vectors: bool, weighted: bool
    ) -> NearestPatches: ...


def push_prototypes(model: PrototypeModel, loader: Loader, *, given: Given = "images") -> PushResult:
    """Replace each prototype by the nearest patch among the images of its classes; the first in order on a tie.

    One pass over the loader. Afterwards each prototype's smallest distance on these images is 0 up to the rounding of
    the backbone. A prototype that no class uses keeps its vector, and so does one whose classes have no image; a
    warning names them.

    If patches have weights (`PrototypeLayer(norm_as_weight=True)`), the nearest patch is the one with the smallest
    weighted distance, and a patch that counts for more may be nearer to a prototype than the patch that it is. So a
    prototype that already is a patch of an image of its classes, at most 1e-6 away without weights, keeps its vector
    and has that patch as its source; a second pass finds these. A push right after another one changes nothing.

    Under `metric="dot"` the nearest patch is the one with the largest projection, whose negative is the distance, and
    another push may find a longer patch. A `UnitPrototypeLayer` takes the direction of the patch.

    Args:
        model: its `prototype_layer.prototypes` are changed in place (the parameter stays the same object).
        loader: yields (images, labels) in order, without augmentation; read twice if patches have weights.
        given: what it yields instead of images, as in `PrototypeModel.features`.

    Raises:
        ValueError: as `find_nearest_patches`, or the choices of the model are soft. The prototypes are then unchanged.

    Source: Chen et al. 2019 (ProtoPNet), section 2.2, "Projection of prototypes"; Rymarczyk et al. 2022 (ProtoPool),
        section 3.4, for prototypes that several classes share.
    """

    def search(model: PrototypeModel, k: int, *, own_class: bool, vectors: bool, weighted: bool) -> NearestPatches:
        return find_nearest_patches(
            model, loader, k, own_class=own_class, vectors=vectors, weighted=weighted, given=given
        )

    return _with_warnings(push_found(model, search))


def push_found(model: PrototypeModel, search: Search) -> PushResult:
    """`push_prototypes` with another search, for instance in images that several processes share.

    It warns of nothing: see the notices of the result.
    """
    _check_can_push(model)
    nearest = search(model, 1, own_class=True, vectors=True, weighted=True)
    if not model.prototype_layer.norm_as_weight:
        return _push(model, nearest, None)
    return _push(model, nearest, search(model, 1, own_class=True, vectors=False, weighted=False))


def apply_push(model: PrototypeModel, nearest: NearestPatches, unweighted: NearestPatches | None = None) -> PushResult:
    """The push from what a search found, for instance in several parts that were merged.

    Args:
        model: as in `push_prototypes`, with the prototypes that the search looked for.
        nearest: found with own_class=True and vectors=True; only the first of several entries is used.
        unweighted: found in the same images with own_class=True and weighted=False. Must be given if patches have
            weights, and only then.

    Raises:
        ValueError: `nearest` or `unweighted` has no vectors, belongs to other prototypes or has images of other
            classes; `unweighted` is missing; or the choices of the model are soft. The prototypes are then unchanged.
    """
    return _with_warnings(_push(model, nearest, unweighted))


def _with_warnings(result: PushResult) -> PushResult:
    """The result, after a warning for each of its notices."""
    for notice in result.notices:
        warnings.warn(notice, stacklevel=3)
    return result


def _push(model: PrototypeModel, nearest: NearestPatches, unweighted: NearestPatches | None) -> PushResult:
    _check_can_push(model)
    if nearest.vector is None:
        raise ValueError("nearest: must have the vectors of its patches; it has none. Search with vectors=True.")
    is_weighted = model.prototype_layer.norm_as_weight
    if (unweighted is not None) != is_weighted:
        wanted, got = ("given", "nothing") if is_weighted else ("None", "patches")
        raise ValueError(
            f"unweighted: must be {wanted} for a model whose patches have {'' if is_weighted else 'no '}weights; got "
            f"{got}. Search with weighted=False where they have, or use push_prototypes."
        )
    has_class = model.class_identity.cpu() > 0  # (P, K)
    _check_found("nearest", nearest, has_class)
    prototypes = vectors_of(model)
    vector = model.from_patches(nearest.vector[:, 0].reshape(prototypes.shape).to(prototypes))
    source = PushResult(
        image=nearest.image[:, 0],
        patch=nearest.patch[:, 0],
        distance=nearest.distance[:, 0],
        label=nearest.label[:, 0],
        grid=nearest.grid,
    )
    is_moved = source.image >= 0  # (P,)
    if unweighted is not None:
        _check_found("unweighted", unweighted, has_class)
        is_copy = unweighted.distance[:, 0] <= COPY_DISTANCE
        source = _without_weights(source, prototypes.detach(), vector, unweighted, is_copy)
        is_moved = is_moved & ~is_copy
    with torch.no_grad():
        moved = is_moved.to(prototypes.device).reshape(-1, *[1] * (prototypes.ndim - 1))
        prototypes.copy_(torch.where(moved, vector, prototypes))
    return replace(source, notices=tuple(_notices_of_lost(source.image >= 0, has_class)))


def _check_found(name: str, found: NearestPatches, has_class: Tensor) -> None:
    """Raise a ValueError unless `found` has the prototypes and, for each, images of its classes (P, K)."""
    if len(found.image) != len(has_class):
        raise ValueError(
            f"{name}: must be of the model's {len(has_class)} prototypes; got {len(found.image)}. "
            "Search with this model."
        )
    is_own = has_class.gather(1, found.label[:, :1].clamp(min=0))[:, 0]
    strangers = ((found.image[:, 0] >= 0) & ~is_own).nonzero().flatten()
    if len(strangers):
        first = int(strangers[0])
        raise ValueError(
            f"{name}: must be of images of each prototype's classes; prototype {first} has one of class "
            f"{int(found.label[first, 0])}. Search with own_class=True."
        )


def _without_weights(
    source: PushResult, prototypes: Tensor, vector: Tensor, unweighted: NearestPatches, is_copy: Tensor
) -> PushResult:
    """The sources of the prototypes if those in `is_copy` (P,) stay, with distances without weights."""
    cosine = cosine_similarity(prototypes.flatten(1).double(), vector.flatten(1).double(), dim=1).cpu()  # (P,)
    distance = (1 - cosine).clamp(min=0).to(source.distance.dtype)
    distance = distance.masked_fill(source.image < 0, torch.inf)
    return PushResult(
        image=torch.where(is_copy, unweighted.image[:, 0], source.image),
        patch=torch.where(is_copy, unweighted.patch[:, 0], source.patch),
        distance=torch.where(is_copy, unweighted.distance[:, 0], distance),
        label=torch.where(is_copy, unweighted.label[:, 0], source.label),
        grid=source.grid,
    )


def _notices_of_lost(is_found: Tensor, has_class: Tensor) -> Iterator[str]:
    """Name the prototypes without a class or without images, of (P,) and (P, K)."""
    unused = (~has_class.any(dim=1)).nonzero().flatten().tolist()
    if unused:
        yield f"model: no class uses the prototypes {unused}; they keep their vectors."
    lost = (~is_found & has_class.any(dim=1)).nonzero().flatten().tolist()
    if lost:
        classes = has_class[lost].any(dim=0).nonzero().flatten().tolist()
        yield f"loader: has no image of the classes {classes}; the prototypes {lost} keep their vectors."


def _check_can_push(model: PrototypeModel) -> None:
    vectors_of(model)
    if not model.is_hard:
        raise ValueError(
            "model: must have made its choices final before a push; they are soft. Call model.harden() first."
        )
