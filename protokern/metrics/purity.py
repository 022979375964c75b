"""Purity: do the patches that a prototype finds most similar show the same part?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from protokern.metrics.consistency import NO_PARTS, best_part
from protokern.metrics.context import Context, LeftOutError, Part, Seen
from protokern.metrics.part_boxes import PAPER_SIDE, half_side, merged, parts_around
from protokern.metrics.patches import centres
from protokern.metrics.results import MeasureResult, count, estimate
from protokern.models.base import PrototypeModel

NAME = "purity"
NEAREST = 10
BOX = 32  # pixels of 224
RELEVANT = 1e-5  # a prototype counts if one of its weights is larger
PURE = 0.5


def purity_of(images: Sequence[tuple[Sequence[Part], frozenset[str]]]) -> tuple[str, float]:
    """The part that the patches of a prototype show most often, and how often, in [0, 1].

    Left and right parts are one. A part counts in the images that show it; ("", NaN) if they show none.

    Args:
        images: for each of the nearest patches the visible parts of its image, and the names of those in its box.

    Source: Nauta et al. 2023 (PIP-Net), M-Nauta/PIPNet util/eval_cub_csv.py.
    """
    visible: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for parts, found in images:
        visible.update({merged(part.name) for part in parts})
        hits.update({merged(name) for name in found})
    return best_part(hits, visible)


def paper_box(
    patch: tuple[int, int], grid: tuple[int, int], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """PIP-Net's box of a patch, (y0, x0, y1, x1) as shares of the image: boxes of one side, evenly spread over it.

    Args:
        patch: (row, column).
        grid: (H', W') patches.
        size: (Y, X) of the image.

    Source: M-Nauta/PIPNet util/vis_pipnet.py `get_img_coordinates`, without its exception for 26 x 26 patches.
    """
    ends = []
    for position, number, pixels in zip(patch, grid, size, strict=True):
        side = min(pixels, round(BOX * pixels / PAPER_SIDE))
        step = round((pixels - side) / max(number - 1, 1))
        end = pixels if position == number - 1 else min(pixels, position * step + side)
        start = pixels - side if end == pixels else position * step
        ends.append((start / pixels, end / pixels))
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]


class Purity:
    """The measure over a data set: the nearest patches of every prototype, one of each image."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context) -> None:
        if context.parts is None:
            raise LeftOutError(context.no_parts)
        self._model, self._context, self._parts = model, context, context.parts
        shape = (model.num_prototypes, 0)
        self._distances, self._images, self._patches = np.empty(shape), np.empty(shape, int), np.empty(shape, int)
        self._grid = self._size = (1, 1)

    def see(self, seen: Seen) -> None:
        number = self._model.num_prototypes
        distances = np.concatenate([self._distances, seen.output.min_distances.double().cpu().numpy().T], axis=1)
        images = np.concatenate([self._images, np.broadcast_to(seen.index.numpy(), (number, len(seen.index)))], axis=1)
        patches = np.concatenate([self._patches, seen.output.patches.cpu().numpy().T], axis=1)
        order = np.lexsort((images, distances), axis=1)[:, :NEAREST]  # the first image on a tie
        self._distances, self._images, self._patches = (
            np.take_along_axis(table, order, axis=1) for table in (distances, images, patches)
        )
        height, width = self._model.prototype_layer.prototype_size
        self._grid = (seen.cells[0] - height + 1, seen.cells[1] - width + 1)
        self._size = (seen.images.shape[2], seen.images.shape[3])

    def _are_relevant(self) -> list[bool]:
        """Of every prototype whether a class uses it; a tree uses all that it has."""
        if self._model.reasons == "path":
            return [True] * self._model.num_prototypes
        weight = self._model.prototype_weight.detach().double().cpu().numpy()  # (K, P)
        return [bool(one > RELEVANT) for one in weight.max(axis=0)]

    def result(self) -> MeasureResult:
        parts = {index: tuple(self._parts(index)) for index in np.unique(self._images).tolist()}
        if not any(parts.values()):
            return MeasureResult(name=NAME, left_out=NO_PARTS)
        is_relevant = self._are_relevant()
        found = []
        for prototype, (images, patches) in enumerate(zip(self._images.tolist(), self._patches.tolist(), strict=True)):
            marked = [
                (parts[image], self._near(parts[image], patch)) for image, patch in zip(images, patches, strict=True)
            ]
            found.append(purity_of(marked) if is_relevant[prototype] else ("", math.nan))
        values = np.array([share for _, share in found])
        known = values[~np.isnan(values)]
        half = half_side(BOX, self._context.part_area)
        return MeasureResult(
            name=NAME,
            estimates={
                "mean purity": estimate(values, seed=self._context.seed, over="prototypes"),
                "standard deviation": count(float(known.std()) if len(known) else math.nan, unit="share"),
                "prototypes with a purity above 0.5": count(int((known > PURE).sum())),
            },
            settings={
                "nearest images of each prototype": self._images.shape[1],
                "side of the box, share of the image's": f"{2 * half:.3f}",
                "prototypes without a weight": is_relevant.count(False),
            },
            skipped={"nearest images without part centres": sum(not some for some in parts.values())},
            prototypes={"purity": values.tolist(), "part": [name for name, _ in found]},
        )

    def _near(self, parts: Sequence[Part], patch: int) -> frozenset[str]:
        row, column = divmod(patch, self._grid[1])
        if self._context.protocol == "paper" and self._context.part_area is None:
            y0, x0, y1, x1 = paper_box((row, column), self._grid, self._size)
            return frozenset(part.name for part in parts if y0 <= part.y <= y1 and x0 <= part.x <= x1)
        sides = zip((row, column), self._grid, self._model.prototype_layer.prototype_size, strict=True)
        y, x = (
            float(places[at]) / total
            for at, number, length in sides
            for places, total in (centres(number + length - 1, length),)
        )
        return parts_around(parts, (y, x), half_side(BOX, self._context.part_area))
