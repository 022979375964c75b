"""Left alone: how much of a match is left when everything but a part of the image is replaced."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from protokern.metrics.context import Box, Context, LeftOutError, Seen, draw
from protokern.metrics.fills import WORDS, check_fill, other_image, replaced
from protokern.metrics.patches import around_patch, best_matches, own_prototypes
from protokern.metrics.results import Means, MeasureResult, estimate
from protokern.models.base import PrototypeModel
from protokern.nn import evaluating

NAME = "left_alone"
SIMILARITY = "similarity of the match"
MARGINS = (0, 1, 2)  # cells around the patch: 1 x 1, 3 x 3 and 5 x 5 for a prototype of one cell


def similarity_left(
    model: PrototypeModel,
    image: Tensor,
    prototype: int,
    patch: tuple[int, int],
    boxes: Sequence[Box],
    *,
    fill: str = "grey",
    other: Tensor | None = None,
) -> tuple[float, list[float]]:
    """A prototype's similarity at one patch of an image, and what is left of it if only a box of the image is kept.

    The patch stays the same even if another one then matches better. All images go through the net together.

    Args:
        model: any prototype model.
        image: (C, Y, X), on the model's device.
        prototype: its index.
        patch: (row, column) in the grid of patches.
        boxes: (y0, x0, y1, x1) each, half open, pixels: the parts to keep.
        fill: what the rest becomes, see `replaced`.
        other: (C, Y, X), for the fill "other".

    Returns:
        The similarity, and for every box the share of it that is left: 1 where nothing changes, below 0 where a
        similarity by cosine changes its sign; NaN for all where the similarity is not above 0.
    """
    rest = replaced(image, fill, other)
    versions = [image]
    for y0, x0, y1, x1 in boxes:
        version = rest.clone()
        version[:, y0:y1, x0:x1] = image[:, y0:y1, x0:x1]
        versions.append(version)
    row, column = patch
    layer = model.prototype_layer
    with evaluating(model):
        features = model.features(torch.stack(versions))  # (1 + n, D, H, W)
        index = torch.tensor([prototype], device=features.device)
        at_patch = layer.distance_map(features, index)[:, 0, row, column]
        similarity = layer.activate(at_patch).double().cpu().tolist()
    whole = similarity[0]
    return whole, [one / whole if whole > 0 else math.nan for one in similarity[1:]]


class LeftAlone:
    """The measure over a drawn part of a data set: the best prototype of each image's own class."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context, num_images: int) -> None:
        if model.prototype_layer.activation == "linear" and not model.prototype_layer.is_projected:
            raise LeftOutError("a similarity that is the negative distance has no share that could be left")
        check_fill(context, num_images)
        self._model, self._context, self._num_images = model, context, num_images
        self._own = own_prototypes(model)
        self._chosen = draw(num_images, context)
        height, width = model.prototype_layer.prototype_size
        names = [f"{height + 2 * margin} x {width + 2 * margin} cells" for margin in MARGINS]
        self._kept = {name: array("d") for name in names}
        self._kept |= {f"{name} frame": array("d") for name in context.frames}
        self._by_prototype = {name: Means(model.num_prototypes) for name in self._kept}
        self._areas = {name: array("d") for name in context.frames}
        self._similarities = array("d")  # of the matches that have a share
        self._taken = self._without_prototypes = 0

    def see(self, seen: Seen) -> None:
        layer, context = self._model.prototype_layer, self._context
        matches, without = best_matches(seen, self._own, self._chosen, layer.prototype_size)
        self._taken += len(matches) + without
        self._without_prototypes += without
        for row, index, prototype, (at, left) in matches:
            image = seen.images[row]
            size = (image.shape[1], image.shape[2])
            boxes: list[Box | None] = [
                around_patch((at, left), margin, seen.cells, layer.prototype_size, size) for margin in MARGINS
            ]
            for name, frame_of in context.frames.items():
                frame = frame_of(image, prototype, (at, left))
                boxes.append(frame)
                self._areas[name].append(_area(frame, size))
            there = [box for box in boxes if box is not None]
            other = other_image(context, index, self._num_images, image)
            similarity, kept = similarity_left(
                self._model, image, prototype, (at, left), there, fill=context.fill, other=other
            )
            self._similarities.append(similarity if similarity > 0 else math.nan)
            values = iter(kept)
            for column, box in zip(self._kept.values(), boxes, strict=True):
                column.append(math.nan if box is None else next(values))
            for name, column in self._kept.items():
                self._by_prototype[name].add(prototype, column[-1])

    def result(self) -> MeasureResult:
        seed = self._context.seed
        estimates = {name: estimate(values, seed=seed) for name, values in self._kept.items()}
        for name, areas in self._areas.items():
            estimates[f"area of the {name} frame, median"] = estimate(areas, seed=seed, statistic="median")
        estimates[SIMILARITY] = estimate(self._similarities, seed=seed, unit="number")
        first = next(iter(self._kept.values()))
        settings: dict[str, str | int] = {
            "images drawn": self._taken,
            "seed of the draw": seed,
            "the rest is": WORDS[self._context.fill],
        }
        skipped = {
            "images whose class has no prototype": self._without_prototypes,
            "images whose best similarity is not above 0": int(np.isnan(first).sum()),
        }
        columns = {name: means.values() for name, means in self._by_prototype.items()}
        return MeasureResult(name=NAME, estimates=estimates, settings=settings, skipped=skipped, prototypes=columns)


def _area(frame: Box | None, size: tuple[int, int]) -> float:
    """Area of a frame as a share of the image; NaN without a frame."""
    return math.nan if frame is None else (frame[2] - frame[0]) * (frame[3] - frame[1]) / (size[0] * size[1])
