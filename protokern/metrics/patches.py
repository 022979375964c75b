"""Where the patches of a grid are in an image of any size, and which prototypes a class has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from protokern.metrics.context import Box, Region, Seen, Shares
from protokern.models.base import PrototypeModel


def centres(cells: int, length: int) -> Shares:
    """Centres of the patches of `length` cells along a side of `cells` cells: whole numbers over one number."""
    return 2 * np.arange(cells - length + 1, dtype=np.int64) + length, 2 * cells


def patches_on(region: Region, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Which patches have their centre on a region.

    Args:
        region: of the image.
        cells: (H, W) of the feature map, which is spread evenly over the image.
        size: (h, w) cells of a patch.

    Returns:
        (H', W') bool.
    """
    return region.covers(centres(cells[0], size[0]), centres(cells[1], size[1]))


def around_patch(
    patch: tuple[int, int], margin: int, cells: tuple[int, int], size: tuple[int, int], image_size: tuple[int, int]
) -> Box:
    """The pixels of a patch and of `margin` cells on each side of it, as far as the image goes.

    Args:
        patch: (row, column) of its first cell.
        margin: cells.
        cells: (H, W) of the feature map.
        size: (h, w) cells of a patch.
        image_size: (Y, X), pixels.
    """
    ends = []
    for first, number, length, pixels in zip(patch, cells, size, image_size, strict=True):
        start = max(0, first - margin) * pixels // number
        stop = min(number, first + length + margin) * pixels // number
        ends.append((start, max(start + 1, stop)))
    (y0, y1), (x0, x1) = ends
    return y0, x0, y1, x1


def own_prototypes(model: PrototypeModel) -> list[np.ndarray]:
    """The prototypes of every class, ascending."""
    is_own = model.class_identity.detach().cpu().numpy() > 0  # (P, K)
    return [np.flatnonzero(column) for column in is_own.T]


class Match(NamedTuple):
    """The best match of an image's own class.

    Attributes:
        row: of the image in its batch.
        image_index: of the image in the data set.
        prototype: the one with the highest similarity.
        patch: (row, column) of its nearest patch.
    """

    row: int
    image_index: int
    prototype: int
    patch: tuple[int, int]


def best_matches(
    seen: Seen, own: Sequence[np.ndarray], chosen: frozenset[int], size: tuple[int, int]
) -> tuple[list[Match], int]:
    """The best matches of the chosen images of a batch, and how many of them have a class without prototypes.

    Args:
        seen: the batch.
        own: the prototypes of every class.
        chosen: which images of the data set.
        size: (h, w) cells of a patch.
    """
    columns = seen.cells[1] - size[1] + 1
    matches, without = [], 0
    for row, (label, index) in enumerate(zip(seen.labels.tolist(), seen.index.tolist(), strict=True)):
        if index not in chosen:
            continue
        if len(own[label]) == 0:
            without += 1
            continue
        prototype = best_of(seen.output.min_distances[row], own[label])
        matches.append(Match(row, index, prototype, divmod(int(seen.output.patches[row, prototype]), columns)))
    return matches, without


def best_of(distances: Tensor, prototypes: np.ndarray) -> int:
    """The prototype with the highest similarity, which is the smallest of `distances` (P,); the first on a tie."""
    chosen = torch.from_numpy(prototypes).to(distances.device)
    return int(prototypes[int(distances[chosen].argmin())])
