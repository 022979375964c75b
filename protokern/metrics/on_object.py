"""On the object: do prototypes match where the object is?"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from protokern.metrics.context import Context, LeftOutError, Region, Seen
from protokern.metrics.patches import own_prototypes, patches_on
from protokern.metrics.results import Means, MeasureResult, estimate
from protokern.models.base import PrototypeModel

NAME = "on_object"


class ObjectShares(NamedTuple):
    """The shares of one image, each in [0, 1].

    Attributes:
        own: the share of the given prototypes whose patch has its centre on the region.
        best: 1 if the patch of the nearest of them has, else 0.
        chance: the share of all patches that have: the expected value for a random patch.
    """

    own: float
    best: float
    chance: float


def object_shares(
    region: Region, patches: np.ndarray, distances: np.ndarray, cells: tuple[int, int], size: tuple[int, int]
) -> ObjectShares:
    """How many of an image's matches are on a region of it.

    Args:
        region: the object, in the image.
        patches: (n,) the patch of each prototype that counts, row * W' + column; n >= 1.
        distances: (n,) of these patches; the smallest is the best match, the first on a tie.
        cells: (H, W) of the feature map.
        size: (h, w) cells of a patch.
    """
    is_on = patches_on(region, cells, size).ravel()
    hits = is_on[patches]
    return ObjectShares(float(hits.mean()), float(hits[int(np.argmin(distances))]), float(is_on.mean()))


@dataclass(slots=True)
class _Columns:
    own: array[float] = field(default_factory=lambda: array("d"))
    best: array[float] = field(default_factory=lambda: array("d"))
    chance: array[float] = field(default_factory=lambda: array("d"))


class OnObject:
    """The measure over a data set: the prototypes of each image's own class, for every kind of region there is."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context) -> None:
        if context.regions is None:
            raise LeftOutError(context.no_regions)
        self._regions = context.regions
        self._seed = context.seed
        self._own = own_prototypes(model)
        self._size = model.prototype_layer.prototype_size
        self._columns: dict[str, _Columns] = {}
        self._by_prototype: dict[str, Means] = {}
        self._unmarked = self._without_prototypes = 0

    def see(self, seen: Seen) -> None:
        patches = seen.output.patches.cpu().numpy()
        distances = seen.output.min_distances.double().cpu().numpy()
        for row, (label, index) in enumerate(zip(seen.labels.tolist(), seen.index.tolist(), strict=True)):
            own = self._own[label]
            if len(own) == 0:
                self._without_prototypes += 1
                continue
            regions: Mapping[str, Region] = self._regions(index)
            self._unmarked += not regions
            for name, region in regions.items():
                shares = object_shares(region, patches[row, own], distances[row, own], seen.cells, self._size)
                columns = self._columns.setdefault(name, _Columns())
                columns.own.append(shares.own)
                columns.best.append(shares.best)
                columns.chance.append(shares.chance)
                means = self._by_prototype.setdefault(name, Means(len(distances[row])))
                hits = patches_on(region, seen.cells, self._size).ravel()[patches[row, own]]
                means.add(own, hits.astype(np.float64))

    def result(self) -> MeasureResult:
        if not self._columns:
            return MeasureResult(name=NAME, left_out="no image of this data set has a box or a mask")
        estimates = {}
        for name, columns in sorted(self._columns.items(), key=lambda item: (item[0] != "mask", item[0])):
            estimates[f"{name}, own class"] = estimate(columns.own, seed=self._seed)
            estimates[f"{name}, best alone"] = estimate(columns.best, seed=self._seed)
            estimates[f"{name}, by chance"] = estimate(columns.chance, seed=self._seed)
        skipped = {
            "images without box and mask": self._unmarked,
            "images whose class has no prototype": self._without_prototypes,
        }
        settings = {"border of a mask": "counts as the object"} if "mask" in self._columns else {}
        by_prototype = {f"{name}, on it": means.values() for name, means in self._by_prototype.items()}
        return MeasureResult(
            name=NAME, estimates=estimates, settings=settings, skipped=skipped, prototypes=by_prototype
        )
