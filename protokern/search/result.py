"""The result of a search, and how the results for parts of a data set are merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from protokern.search.order import Entries, merge


@dataclass(frozen=True)
class NearestPatches:
    """The k nearest patches of every prototype, nearest first.

    Entries are ordered by (distance, image, patch). If there are fewer than k, the last entries have distance inf and
    image, patch and label -1. All tensors are on the CPU.

    Attributes:
        distance: (P, k), in the model's metric.
        image: (P, k) int64, the image's index: its position in the loader's order, or what the loader said.
        patch: (P, k) int64, flat index row * W' + column in `grid`.
        label: (P, k) int64, the image's label.
        vector: (P, k, D, h, w), the features of the patch (zeros in missing entries); None unless asked for.
        grid: (H', W'), rows and columns of the distance grid.
    """

    distance: Tensor
    image: Tensor
    patch: Tensor
    label: Tensor
    vector: Tensor | None
    grid: tuple[int, int]


def merge_nearest(parts: Iterable[NearestPatches], *, distinct: bool = False) -> NearestPatches:
    """The k nearest patches in a whole data set from those in its parts, in any order of the parts.

    Exact: bit for bit what one search over all images gives with the same k and options. So are merges of merges.

    Args:
        parts: of the same prototypes, k and grid, each with images that no other part has.
        distinct: drop patches whose vectors equal a nearer one's; for parts that were found with distinct=True and have
            vectors.

    Raises:
        ValueError: there are no parts, they do not fit each other, or an image is in two of them.
    """
    parts = list(parts)
    _check_parts(parts, distinct)
    entries = parts[0]
    vectors = all(part.vector is not None for part in parts)
    found = _entries(entries, vectors)
    for part in parts[1:]:
        found = merge(found, _entries(part, vectors), found.distance.shape[1], distinct)
    assert found.label is not None
    return NearestPatches(found.distance, found.image, found.patch, found.label, found.vector, entries.grid)


def _entries(part: NearestPatches, vectors: bool) -> Entries:
    return Entries(part.distance, part.image, part.patch, part.label, part.vector if vectors else None)


def _check_parts(parts: Sequence[NearestPatches], distinct: bool) -> None:
    if not parts:
        raise ValueError("parts: must hold at least one result; got none. Search at least one part of the data set.")
    first = parts[0]
    for part in parts[1:]:
        if part.distance.shape != first.distance.shape or part.grid != first.grid:
            raise ValueError(
                "parts: must be of the same prototypes, k and grid; got "
                f"{tuple(first.distance.shape)} on {first.grid} and {tuple(part.distance.shape)} on {part.grid}. "
                "Search all parts with one model, one k and images of one size."
            )
    without = sum(part.vector is None for part in parts)
    if 0 < without < len(parts) or (distinct and without):
        raise ValueError(
            f"parts: must all have vectors{' to be merged with distinct=True' if distinct else ', or none of them'}; "
            f"got {without} of {len(parts)} without. Search with vectors=True."
        )
    images = torch.cat([part.image[part.image >= 0].unique() for part in parts])
    values, counts = images.unique(return_counts=True)
    if (counts > 1).any():
        twice = int(values[counts > 1][0])
        raise ValueError(
            f"parts: must have each image in one part only; image {twice} is in two. "
            "Give every part its own images, and say which they are with first_image or with an index in the batches."
        )
