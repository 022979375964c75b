"""Duplicates: prototypes that repeat each other."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from protokern.metrics.context import Box, Context, LeftOutError, Seen
from protokern.metrics.results import MeasureResult, count
from protokern.models.base import PrototypeModel

NAME = "duplicates"
OVERLAP = 0.5


class Pair(NamedTuple):
    """Two prototypes that repeat each other.

    Attributes:
        first, second: their indices, the smaller one first.
        same_vector: their vectors are equal, number for number.
        same_patch: they are the same patch of the same image.
        overlap: intersection over union of their sources' boxes; 0 for different images.
    """

    first: int
    second: int
    same_vector: bool
    same_patch: bool
    overlap: float


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes (y0, x0, y1, x1), half open, in [0, 1]."""
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    if height <= 0 or width <= 0:
        return 0.0
    both = height * width
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both)


def find_duplicates(
    vectors: np.ndarray, sources: Sequence[tuple[int, int] | None], boxes: Sequence[Box | None]
) -> tuple[Pair, ...]:
    """All pairs with the same vector, with the same source patch, or whose sources overlap by more than one half.

    Args:
        vectors: (P, ...), the prototypes.
        sources: (image, patch) of every prototype; None: not a patch.
        boxes: of every source, in its image; None for the same prototypes.

    Returns:
        The pairs, ascending.
    """
    flat = np.ascontiguousarray(vectors.reshape(len(vectors), -1)) + 0.0  # -0 is 0
    same_vector = _pairs_of_equal(row.tobytes() for row in flat)
    same_patch = _pairs_of_equal(sources)
    overlaps = {}
    in_image: dict[int, list[int]] = {}
    for index, source in enumerate(sources):
        if source is not None and boxes[index] is not None:
            in_image.setdefault(source[0], []).append(index)
    for members in in_image.values():
        for first, second in combinations(members, 2):
            one, other = boxes[first], boxes[second]
            assert one is not None
            assert other is not None
            overlaps[first, second] = overlap(one, other)
    overlapping = {pair for pair, share in overlaps.items() if share > OVERLAP}
    return tuple(
        Pair(*pair, pair in same_vector, pair in same_patch, overlaps.get(pair, 0.0))
        for pair in sorted(same_vector | same_patch | overlapping)
    )


def _pairs_of_equal(keys: Iterable[Hashable]) -> set[tuple[int, int]]:
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(index)
    return {pair for members in groups.values() for pair in combinations(members, 2)}


class Duplicates:
    """The measure of a model; it needs no images."""

    needs_images = False

    def __init__(self, model: PrototypeModel, context: Context) -> None:
        if model.prototype_layer.vectors is None:
            raise LeftOutError("the prototypes of this model are channels of its features, and no channel is another")
        self._vectors, self._model, self._context = model.prototype_layer.vectors, model, context

    def see(self, seen: Seen) -> None:
        pass

    def result(self) -> MeasureResult:
        number = self._model.num_prototypes
        sources = self._sources()
        pairs = find_duplicates(self._vectors.detach().cpu().numpy(), sources, self._boxes(sources))
        has_push = self._context.push is not None
        estimates = {
            "pairs": count(len(pairs)),
            "prototypes that repeat an earlier one": count(len({pair.second for pair in pairs})),
            "pairs with the same vector": count(sum(pair.same_vector for pair in pairs)),
        }
        if has_push:
            estimates["pairs of the same source patch"] = count(sum(pair.same_patch for pair in pairs))
            estimates["pairs that overlap by more than one half"] = count(sum(pair.overlap > OVERLAP for pair in pairs))
        boxes = "drawn frames" if self._context.source_boxes is not None else "cells of the source patches"
        settings: dict[str, str | int] = {
            "prototypes": number,
            "boxes that are compared": boxes if has_push else "none: there was no push, so no prototype has a source",
        }
        return MeasureResult(
            name=NAME, estimates=estimates, settings=settings, table=tuple(pair._asdict() for pair in pairs)
        )

    def _sources(self) -> list[tuple[int, int] | None]:
        push = self._context.push
        if push is None:
            return [None] * self._model.num_prototypes
        pairs = zip(push.image.tolist(), push.patch.tolist(), strict=True)
        return [None if image < 0 else (image, patch) for image, patch in pairs]

    def _boxes(self, sources: Sequence[tuple[int, int] | None]) -> Sequence[Box | None]:
        if self._context.source_boxes is not None:
            return self._context.source_boxes
        if self._context.push is None:
            return [None] * len(sources)
        columns = self._context.push.grid[1]
        height, width = self._model.prototype_layer.prototype_size
        boxes: list[Box | None] = []
        for source in sources:
            row, column = (0, 0) if source is None else divmod(source[1], columns)
            boxes.append(None if source is None else (row, column, row + height, column + width))
        return boxes
