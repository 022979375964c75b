"""The reference line of measures: the same net with random patches of the training images as its prototypes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from protokern.metrics import accuracy, concentration, consistency, left_alone, purity
from protokern.metrics.context import SUBSET, Context
from protokern.metrics.measure import measure
from protokern.metrics.registry import check_names
from protokern.metrics.results import MeasureResult
from protokern.models.base import PrototypeModel, vectors_of
from protokern.nn import evaluating
from protokern.search.batches import Loader

# The others compare with random places or with chance themselves, or have an ideal that every net could reach.
HAVE_REFERENCE = (
    concentration.NAME,
    left_alone.NAME,
    accuracy.NAME,
    consistency.CONSISTENCY,
    consistency.STABILITY,
    purity.NAME,
)
DRAWN_FROM = "images that the patches are from"  # a setting of the results: they went through the net once more
_FRAMES = ("grid",)  # a sufficient frame takes dozens of passes
_BATCH = 8


class TrainingImages(Protocol):
    """Images that the patches are drawn from; the data sets of `protokern.data` have it."""

    labels: list[int]

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


def draw_patches(
    model: PrototypeModel, images: TrainingImages, *, seed: int = 0, most_images: int = SUBSET
) -> tuple[Tensor, list[int], list[tuple[int, int]]]:
    """A random patch for every prototype: each patch of each drawn image of its classes is as likely.

    Args:
        model: any prototype model whose choices are final.
        images: training images, without augmentation.
        seed: of the draw.
        most_images: about how many images go through the net; every class has at least one.

    Returns:
        The patches, in the shape of the prototypes; and for each its image and its place (row, column). A prototype
        without a class, or whose classes have no image, gets a patch of any drawn image.
    """
    labels, is_own = np.asarray(images.labels), model.class_identity.detach().cpu().numpy() > 0  # (P, K)
    each = max(1, most_images // model.num_classes)
    drawn = [
        np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))[:each].tolist()
        for label in range(model.num_classes)
    ]
    every = [image for some in drawn for image in some]
    rng = np.random.default_rng([seed, model.num_classes])
    sources = []
    for row in is_own:
        own = [image for label in np.flatnonzero(row) for image in drawn[label]]
        sources.append(int(rng.choice(own or every)))
    layer = model.prototype_layer
    height, width = layer.prototype_size
    patches = torch.empty_like(vectors_of(model).detach())
    places = [(0, 0)] * len(sources)
    needed = sorted(set(sources))
    for start in range(0, len(needed), _BATCH):
        some = needed[start : start + _BATCH]
        features = _features(model, [images[image][0] for image in some])
        rows, columns = features.shape[2] - height + 1, features.shape[3] - width + 1
        for index, image in enumerate(sources):
            if image in some:
                y, x = np.random.default_rng([seed, index, image]).integers((rows, columns)).tolist()
                patch = features[some.index(image), :, y : y + height, x : x + width]
                patches[index] = patch.reshape(patches[index].shape)
                places[index] = (y, x)
    return patches, sources, places


def _features(model: PrototypeModel, images: Sequence[Tensor]) -> Tensor:
    with evaluating(model):
        return model.features(torch.stack(list(images)).to(model.device, model.dtype))


@contextmanager
def with_prototypes(model: PrototypeModel, vectors: Tensor) -> Iterator[None]:
    """The model with other prototypes within the block: `vectors`, in their shape."""
    prototypes = vectors_of(model)
    own = prototypes.detach().clone()
    with torch.no_grad():
        prototypes.copy_(vectors)
    try:
        yield
    finally:
        with torch.no_grad():
            prototypes.copy_(own)


def measure_random(
    model: PrototypeModel,
    loader: Loader,
    num_images: int,
    images: TrainingImages,
    *,
    only: Sequence[str] | None = None,
    context: Context | None = None,
    most_images: int = SUBSET,
) -> tuple[MeasureResult, ...]:
    """Measure the same net with random patches of training images of its classes as prototypes.

    All else stays, also the last layer: it is the net that one would have without learning which patches to take. The
    loader is read only if one of the measures has this reference.

    Args:
        model: as in `measure`; its prototypes are its own again afterwards.
        loader: as in `measure`.
        num_images: as in `measure`.
        images: training images, without augmentation.
        only: names of measures; None: those of the default. Those without this reference are left out.
        context: as in `measure`; of its frames "grid" alone is used.
        most_images: as in `draw_patches`.

    Returns:
        One result per measure that has this reference and could be measured: its numbers, without those of single
        prototypes and classes. Nothing for a model whose prototypes are no vectors.
    """
    names = [name for name in check_names(None if only is None else list(only)) if name in HAVE_REFERENCE]
    if not names or model.prototype_layer.vectors is None:
        return ()
    context = Context() if context is None else context
    frames = {name: frame for name, frame in context.frames.items() if name in _FRAMES}
    context = replace(context, push=None, source_boxes=None, frames=frames)
    patches, sources, _ = draw_patches(model, images, seed=context.seed, most_images=most_images)
    with with_prototypes(model, patches):
        results = measure(model, loader, num_images, only=names, context=context)
    drawn_from = {DRAWN_FROM: len({*sources})}
    return tuple(
        replace(one, prototypes={}, classes={}, settings={**one.settings, **drawn_from})
        for one in results
        if one.left_out is None
    )
