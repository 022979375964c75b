"""The nearest patches of prototypes in whole data sets, and whether they are of the prototypes' classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from protokern.explain.boxes import cell_box
from protokern.explain.framing import drawn_box
from protokern.explain.heat_maps import check_heat_map
from protokern.explain.receptive_field import find_receptive_field
from protokern.explain.views import view_patches, with_heat_map
from protokern.inputs.loaders import ShownImages
from protokern.inputs.sources import SplitFeatures
from protokern.models.base import Given, PrototypeModel
from protokern.nn import evaluating
from protokern.push import PushResult
from protokern.results.places import Box, LazyPicture, PatchView, ReceptiveField, SeenPicture
from protokern.results.prototypes import GlobalExplanation, Neighbour, Neighbours, Prototype, SplitNeighbours
from protokern.runs.data import RunData
from protokern.runs.features import RunFeatures
from protokern.runs.open import OpenRun
from protokern.runs.prototypes import PrototypeFiles
from protokern.search import Loader, NearestPatches, find_nearest_patches

NEIGHBOURS = 5
_BATCH = 16
_VIEWS_AT_ONCE = 32


def find_neighbours(
    model: PrototypeModel,
    train: Loader,
    test: Loader,
    k: int = NEIGHBOURS,
    *,
    push: PushResult | None = None,
    given: Given = "images",
) -> GlobalExplanation:
    """Find the k nearest patches of every prototype among training and test images, in one pass over each.

    Memory is that of one batch and of the result, O(P k).

    Args:
        model: any prototype model whose choices are final.
        train: yields (images, labels) in the order of the push, un-augmented.
        test: yields (images, labels) in the data set's order.
        k: neighbours of each prototype, >= 1.
        push: where the prototypes come from. Patches of the image that a prototype comes from do not count as its
            neighbours. None: nothing is left out, so after a push a prototype's own patch comes first.
        given: what the loaders yield instead of images, as in `PrototypeModel.features`.

    Raises:
        ValueError: as `find_nearest_patches`; `push` is of other prototypes; or the choices of the model are soft.

    Source: Chen et al. 2019, global_analysis.py of cfchen-duke/ProtoPNet.
    """
    if not model.is_hard:
        raise ValueError("model: must have made its choices final, so that prototypes have classes; they are soft.")
    if push is not None and len(push.image) != model.num_prototypes:
        raise ValueError(
            f"push: must have one entry for each of the {model.num_prototypes} prototypes; got {len(push.image)}."
        )
    found = find_nearest_patches(model, train, k if push is None else k + 1, given=given)
    if push is not None:
        found = _without_own(found, push)
    of_test = find_nearest_patches(model, test, k, given=given)
    return GlobalExplanation(train=_judge(model, found), test=_judge(model, of_test))


def _without_own(found: NearestPatches, push: PushResult) -> NearestPatches:
    """Remove one entry per prototype: the image that it comes from, or otherwise the last entry."""
    is_own = (found.image == push.image[:, None]) & (found.image >= 0)  # (P, k + 1)
    kept = is_own.int().argsort(dim=1, stable=True)[:, :-1]
    entries = {name: getattr(found, name).gather(1, kept) for name in ("distance", "image", "patch", "label")}
    return replace(found, **entries)


def _judge(model: PrototypeModel, found: NearestPatches) -> SplitNeighbours:
    similarity = model.prototype_layer.activate(found.distance)
    return SplitNeighbours(
        distance=found.distance,
        similarity=similarity.masked_fill(found.image < 0, torch.nan),
        image=found.image,
        patch=found.patch,
        label=found.label,
        agreement=share_of_own(found.label, model.class_identity.cpu() > 0),
        grid=found.grid,
    )


def share_of_own(label: Tensor, is_of_class: Tensor) -> Tensor:
    """The share of labels that are classes of their prototype, (P,) float64; NaN if there is no label.

    Args:
        label: (P, k) int64, -1: no label.
        is_of_class: (P, K) bool, the classes that each prototype belongs to.
    """
    is_there = label >= 0
    is_own = is_of_class.gather(1, label.clamp(min=0)) & is_there
    return is_own.sum(dim=1).double() / is_there.sum(dim=1)


class LabelledImages(Protocol):
    """A data set: item = (image (C, Y, X), label)."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


class NeighbourView(NamedTuple):
    """Where a prototype looks in one of its neighbours.

    Attributes:
        rank: rank among the prototype's neighbours; 0 is the nearest.
        image: position in the data set.
        pixels: (C, Y, X), the image.
        view: patch, heat map and boxes; the prototype's index is in it.
    """

    rank: int
    image: int
    pixels: Tensor
    view: PatchView


def view_neighbours(
    model: PrototypeModel,
    dataset: LabelledImages,
    neighbours: SplitNeighbours,
    prototypes: Sequence[int] | None = None,
    *,
    receptive_field: ReceptiveField | None = None,
    heat_map: str = "upsample",
    batch_size: int = _BATCH,
) -> Iterator[NeighbourView]:
    """Where prototypes look in their neighbours, image by image: each image goes through the net once.

    It is an iterator, because the heat maps of thousands of prototypes do not fit into memory; a few are made at a
    time.

    Args:
        model: the model with which `neighbours` were found.
        dataset: the data set in which `neighbours` were found.
        neighbours: of one data set.
        prototypes: the prototypes whose neighbours are viewed; None: all.
        receptive_field: of the model for images of this size; None: computed here.
        heat_map: see `explain_image`.
        batch_size: images at a time.

    Returns:
        An iterator, ordered by image, prototype and rank.

    Raises:
        ValueError: a prototype is out of range, or `heat_map` is unknown.
        MissingPackageError: the package of `heat_map` is not installed.
    """
    check_heat_map(heat_map, model)
    shown = _by_image(neighbours, prototypes)
    return _views_in_images(model, dataset, neighbours.patch, shown, receptive_field, heat_map, batch_size)


def _by_image(neighbours: SplitNeighbours, prototypes: Sequence[int] | None) -> dict[int, list[tuple[int, int]]]:
    """Prototype and rank of what is shown, by image."""
    count = len(neighbours.image)
    chosen = range(count) if prototypes is None else sorted(set(prototypes))
    outside = [j for j in chosen if not 0 <= j < count]
    if outside:
        raise ValueError(f"prototypes: must be from 0 to {count - 1}; got {outside[0]}.")
    shown: dict[int, list[tuple[int, int]]] = {}
    for j in chosen:
        for rank, image in enumerate(neighbours.image[j].tolist()):
            if image >= 0:
                shown.setdefault(image, []).append((j, rank))
    return dict(sorted(shown.items()))


def _views_in_images(
    model: PrototypeModel,
    dataset: LabelledImages,
    patch: Tensor,
    shown: dict[int, list[tuple[int, int]]],
    field: ReceptiveField | None,
    heat_map: str,
    batch_size: int,
) -> Iterator[NeighbourView]:
    """The views with the pixels of their images, from which the features are computed."""
    if not shown:
        return
    pixels: dict[int, Tensor] = {}

    def features(batch: Sequence[int]) -> Tensor:
        pixels.clear()
        pixels.update((index, dataset[index][0]) for index in batch)
        return model.features(torch.stack([pixels[index] for index in batch]).to(model.device, model.dtype))

    first = dataset[next(iter(shown))][0]
    if field is None:
        with evaluating(model):
            field = find_receptive_field(model.features, first.to(model.device, model.dtype))
    for rank, index, view in _views(model, features, patch, shown, first.shape[1:], field, batch_size):
        (seen,) = with_heat_map(model, pixels[index], [view], heat_map)
        yield NeighbourView(rank, index, pixels[index], seen)


def _views(
    model: PrototypeModel,
    features: Callable[[Sequence[int]], Tensor],
    patch: Tensor,
    shown: dict[int, list[tuple[int, int]]],
    image_size: Sequence[int],
    field: ReceptiveField,
    batch_size: int,
) -> Iterator[tuple[int, int, PatchView]]:
    """Rank, image and view, from a function that gives the features (b, D, H, W) of some images.

    Nothing is yielded within `evaluating`, so between two views the modes and gradients are the caller's.
    """
    indices = list(shown)
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        with evaluating(model):
            maps = features(batch)
        for index, feature in zip(batch, maps, strict=True):
            for first in range(0, len(shown[index]), _VIEWS_AT_ONCE):
                part = shown[index][first : first + _VIEWS_AT_ONCE]
                patches = torch.zeros(len(patch), dtype=torch.int64)
                for j, rank in part:
                    patches[j] = patch[j, rank]
                with evaluating(model):
                    views = view_patches(model, feature, patches, [j for j, _ in part], image_size, field)
                for (_, rank), view in zip(part, views, strict=True):
                    yield rank, index, view


def add_neighbours(
    cards: Sequence[Prototype],
    run: OpenRun,
    splits: RunData,
    features: RunFeatures,
    files: PrototypeFiles,
    k: int,
    frame: str = "grid",
) -> tuple[Prototype, ...]:
    """Add to every prototype that is a patch of an image its k nearest patches, in training and in test images.

    This takes one pass over the features of each of the two splits. No picture is kept; each is read when the page
    draws it. The patch that a prototype is does not count as its neighbour. Where the frame is the patch's cell, no
    heat map is made, and `patch_box` of the neighbours is None.

    Args:
        cards: of all prototypes of the run's model.
        run: a run after a push.
        splits: its data.
        features: of these data.
        files: its prototypes.
        k: number of neighbours in each split, at least 1.
        frame: as in `see_neighbours`.
    """
    shown = [card.index for card in cards if card.picture is not None]
    found = find_in_splits(run, splits, features, files, k)
    has_maps = frame != "sufficient"
    return see_neighbours(cards, run, splits, features, files, found, shown, frame, has_maps=has_maps)


def find_in_splits(
    run: OpenRun, splits: RunData, features: RunFeatures, files: PrototypeFiles, k: int
) -> GlobalExplanation:
    """The k patches nearest to every prototype of a run, after a push, in training and in test images."""
    assert run.push is not None
    # By name, because the data may have grown or changed since the push.
    positions = {splits.push.sample_name(index): index for index in range(len(splits.push))}
    names = [None if record.source is None else record.source.name for record in files.prototypes]
    own = torch.tensor([-1 if name is None else positions.get(name, -1) for name in names], dtype=torch.int64)
    push = replace(run.push, image=own)
    return find_neighbours(run.model, features.push, features.test, k, push=push, given="features")


def see_neighbours(
    cards: Sequence[Prototype],
    run: OpenRun,
    splits: RunData,
    features: RunFeatures,
    files: PrototypeFiles,
    found: GlobalExplanation,
    prototypes: Sequence[int],
    frame: str = "grid",
    *,
    has_maps: bool = True,
) -> tuple[Prototype, ...]:
    """Add the neighbours that `find_in_splits` found to some prototypes; the other cards stay.

    `frame` says which box is shown, see `drawn_box`. For "sufficient", which is not computed here, it is the patch's
    cell. Without `has_maps`, which is for this frame alone, no heat map is made, and `patch_box` is None.
    """
    seen = partial(_neighbours, run=run, files=files, prototypes=prototypes, frame=frame, has_maps=has_maps)
    train = seen("train", splits.push, features.push, found.train)
    test = seen("test", splits.test, features.test, found.test)
    return tuple(
        replace(
            card,
            neighbours=Neighbours(
                train=tuple(train[card.index]),
                test=tuple(test[card.index]),
                agreement_train=float(found.train.agreement[card.index]),
                agreement_test=float(found.test.agreement[card.index]),
            ),
        )
        if card.index in train
        else card
        for card in cards
    )


def _neighbours(
    split: str,
    dataset: ShownImages,
    features: SplitFeatures,
    found: SplitNeighbours,
    *,
    run: OpenRun,
    files: PrototypeFiles,
    prototypes: Sequence[int],
    frame: str,
    has_maps: bool,
) -> dict[int, list[Neighbour]]:
    """The neighbours of some prototypes in one data set, nearest first, by prototype."""
    by_rank: dict[int, dict[int, Neighbour]] = {index: {} for index in prototypes}
    first = dataset[0][0]
    size = (first.shape[1], first.shape[2])
    field = files.field_for(first)
    if field is None:
        with evaluating(run.model):
            field = find_receptive_field(run.model.features, first.to(run.model.device, run.model.dtype))
    shown = _by_image(found, prototypes)
    places: Iterable[tuple[int, int, PatchView | _Place]] = (
        _views(run.model, features.of, found.patch, shown, size, field, _BATCH)
        if has_maps
        else _places(found, shown, size, field, run.model.prototype_layer.prototype_size)
    )
    for rank, image, place in places:
        index = place.prototype
        by_rank[index][rank] = Neighbour(
            picture=SeenPicture(
                image=LazyPicture(load=partial(dataset.display_image, image), shape=(*size, 3), key=(split, image)),
                box=drawn_box(place, frame) if isinstance(place, PatchView) and frame != "sufficient" else place.cell,
                receptive_field_box=place.receptive_field_box,
            ),
            name=dataset.sample_name(image),
            class_name=run.classes[int(found.label[index, rank])],
            similarity=float(found.similarity[index, rank]),
            distance=float(found.distance[index, rank]),
            patch_box=place.patch_box if isinstance(place, PatchView) else None,
        )
    return {index: [of_rank[rank] for rank in sorted(of_rank)] for index, of_rank in by_rank.items()}


class _Place(NamedTuple):
    """What is known of a patch without its heat map."""

    prototype: int
    cell: Box
    receptive_field_box: Box


def _places(
    found: SplitNeighbours,
    shown: dict[int, list[tuple[int, int]]],
    image_size: tuple[int, int],
    field: ReceptiveField,
    patch_size: tuple[int, int],
) -> Iterator[tuple[int, int, _Place]]:
    """Rank, image and place, as `_views` gives them, without features."""
    for image, part in shown.items():
        for j, rank in part:
            row, column = divmod(int(found.patch[j, rank]), found.grid[1])
            cell = cell_box(found.grid, (row, column), image_size)
            yield rank, image, _Place(j, cell, field.box(row, column, patch_size))
