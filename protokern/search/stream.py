"""One pass over a data set."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from protokern.models.base import Given, PrototypeModel
from protokern.nn import PatchLayer, PrototypeLayer, evaluating
from protokern.search.batches import Excluded, Loader, Seen, read_batches
from protokern.search.best import RunningBest
from protokern.search.result import NearestPatches


def find_nearest_patches(
    model: PrototypeModel,
    loader: Loader,
    k: int = 1,
    *,
    own_class: bool = False,
    patches: Literal["best", "all"] = "best",
    distinct: bool = False,
    vectors: bool = False,
    first_image: int = 0,
    weighted: bool = True,
    given: Given = "images",
    excluded: Excluded | None = None,
) -> NearestPatches:
    """Find the k patches nearest to each prototype, in one pass over the loader.

    The model runs in eval mode without gradients; afterwards every module is in its previous mode. For features with
    the same bits the result has the same bits, whatever the batch size, the order of the batches and the parts that the
    data set is searched in (`merge_nearest`). Memory is that of one batch and of the result, and 16 bytes per image.

    Args:
        model: a prototype net.
        loader: yields (images, labels) in the data set's order, or (images, labels, index) in any order, where index
            (B,) says which image of the data set each one is; all images of one size.
        k: entries per prototype, >= 1.
        own_class: consider only images of the prototype's own classes, and compute only those distances. Batches of few
            classes are the fastest.
        patches: "best" takes at most one patch of an image, "all" any number.
        distinct: leave out patches whose feature vectors equal that of a nearer entry, bit for bit.
        vectors: also return the features of the patches.
        first_image: index of the loader's first image, for a loader of a later part of a data set.
        weighted: search by the distances that the model uses. False: if its patches have weights, as with
            `PrototypeLayer(norm_as_weight=True)`, search by distances without them.
        given: what the loader yields instead of images, as in `PrototypeModel.features`.
        excluded: says which patches no prototype may take, with `patches="best"`; None: they may take all.

    Raises:
        ValueError: the loader is empty, shuffles without an index, gives an image twice, labels out of range or images
            of several sizes; an argument is out of range; or a distance is not finite.
    """
    _check_arguments(k, patches, first_image, excluded)
    layer = model.prototype_layer if weighted else _without_weights(model.prototype_layer)
    best = RunningBest(layer, k, all_patches=patches == "all", distinct=distinct, vectors=vectors)
    seen = Seen()
    of_class = _prototypes_of_classes(model) if own_class else None
    with evaluating(model):
        for batch in read_batches(loader, model.num_classes, first_image):
            features = model.features(batch.images.to(best.device, non_blocking=True), given)  # (B, D, H, W)
            best.check_grid(features)
            weight = None if excluded is None else _weight_of(excluded(features, batch.labels, batch.index), features)
            for position, prototypes in _groups(batch.labels, batch.index, of_class):
                index = to_device(batch.index if position is None else batch.index[position], best.device)
                of_group = None if weight is None else _take(weight, position)
                best.offer(_take(features, position), index, prototypes, of_group)
            seen.add(batch)
    found = best.result()
    label = seen.labels_of(found.image)
    assert best.grid is not None
    return NearestPatches(found.distance, found.image, found.patch, label, found.vector, best.grid)


def _check_arguments(k: int, patches: str, first_image: int, excluded: Excluded | None) -> None:
    if k < 1:
        raise ValueError(f"k: must be at least 1; got {k}. Give the number of entries per prototype.")
    if patches not in ("best", "all"):
        raise ValueError(f"patches: must be 'best' or 'all'; got {patches!r}. Say how many of an image count.")
    if excluded is not None and patches == "all":
        raise ValueError("excluded: must be None with patches='all'; got a function. Take the best patch of an image.")
    if first_image < 0:
        raise ValueError(f"first_image: must be at least 0; got {first_image}. Count images from 0.")


def _without_weights(layer: PatchLayer) -> PatchLayer:
    """The same prototypes, with patches of equal weight."""
    if not isinstance(layer, PrototypeLayer):
        return layer
    even = copy.copy(layer)
    even.norm_as_weight = False
    return even


def _groups(
    labels: Tensor, index: Tensor, of_class: list[Tensor] | None
) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Positions of images in the batch, ascending by index, with the prototypes that may take them; None: all."""
    if of_class is None:
        is_ascending = bool((index[1:] > index[:-1]).all())
        yield None if is_ascending else index.argsort(stable=True), None
        return
    order = index.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    classes, counts = labels[order].unique_consecutive(return_counts=True)
    for label, position in zip(classes.tolist(), order.split(counts.tolist()), strict=True):
        if len(of_class[label]):
            yield position, of_class[label]


def _weight_of(is_excluded: Tensor, features: Tensor) -> Tensor:
    """Weights (B, H', W') of patches: 0 for those that no prototype may take, and 1."""
    return (~is_excluded).to(features.dtype)


def _take(features: Tensor, position: Tensor | None) -> Tensor:
    """Features at positions of the batch; a view where they follow each other, as in a data set sorted by class."""
    if position is None:
        return features
    first, last = int(position[0]), int(position[-1])
    if last - first + 1 == len(position) and bool((position[1:] > position[:-1]).all()):
        return features[first : last + 1]
    return features[to_device(position, features.device)]


def _prototypes_of_classes(model: PrototypeModel) -> list[Tensor]:
    """Which prototypes each class has, on the model's device."""
    is_of_class = model.class_identity.T.cpu() > 0  # (K, P)
    prototypes = is_of_class.nonzero()[:, 1].to(model.device)
    return list(prototypes.split(is_of_class.sum(dim=1).tolist()))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """CPU values on the device, without waiting for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
