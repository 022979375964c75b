"""Maps on the object: is the heat map of a prototype on the object, by its mask or its box?"""

from __future__ import annotations

from array import array
from typing import Literal, NamedTuple

import numpy as np
import torch

from protokern.metrics.context import Context, LeftOutError, Region, Seen
from protokern.metrics.maps import high_pixels, peak_maps, similarity_maps, upsampled
from protokern.metrics.patches import centres, own_prototypes
from protokern.metrics.results import Means, MeasureResult, estimate
from protokern.models.base import PrototypeModel

NAME = "object_maps"
POINTING = 0.1  # of the image's area


class MapShares(NamedTuple):
    """How n maps lie on an object, (n,) each; NaN where there is no such number.

    Attributes:
        energy: share of the map that is on the object, in [0, 1]; the map starts at its least value.
        pointing: share of the map's highest tenth that is on the object, in [0, 1].
        outside_inside: OIRR, mean similarity outside over that inside, of the pixels where it is above 0; NaN if it is
            above 0 nowhere inside.
        inside_outside: IOR, mean inside minus mean outside of the map over its maximum, in [-1, 1].
        object_overlap: share of the object that the highest twentieth of the map covers, in [0, 1].
        background_overlap: share of that twentieth that is outside of the object, in [0, 1].
        iou: intersection over union of that twentieth and the object, in [0, 1].
    """

    energy: np.ndarray
    pointing: np.ndarray
    outside_inside: np.ndarray
    inside_outside: np.ndarray
    object_overlap: np.ndarray
    background_overlap: np.ndarray
    iou: np.ndarray


NUMBERS = dict(
    zip(
        MapShares._fields,
        (
            "relevance by energy",
            "relevance of the highest tenth",
            "outside over inside (OIRR)",
            "inside minus outside (IOR)",
            "object overlap",
            "background overlap",
            "intersection over union",
        ),
        strict=True,
    )
)


def map_shares(maps: np.ndarray, on: np.ndarray) -> MapShares:
    """How maps lie on an object.

    Args:
        maps: (n, Y, X), similarities at every pixel.
        on: (Y, X) bool, where the object is.

    Source: energy: Wang et al. 2020 (Score-CAM), and pointing: Xu-Darme et al. 2023, Sanity checks and improvements
        for patch visualisation, both as CaBRNet `relevance_analysis.py`, where a map without any such pixel counts 0.
        The others: Schlinge et al. 2025 (QuanProto), `metrics/complexity.py`, where maps that are 0 count 0, or
        infinity.
    """
    flat, inside = maps.reshape(len(maps), -1), on.ravel()
    low, rank = flat.min(axis=1), int(flat.shape[1] * (1 - POINTING))
    highest = flat > np.partition(flat, rank, axis=1)[:, rank, None]
    high = high_pixels(maps).reshape(flat.shape)
    both, area = np.count_nonzero(high[:, inside], axis=1), np.count_nonzero(inside)
    total, within = flat.sum(axis=1), flat[:, inside].sum(axis=1)
    positive = flat.clip(min=0)
    means = [_mean_above_0(positive[:, where]) for where in (inside, ~inside)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return MapShares(
            energy=(within - low * area) / (total - low * flat.shape[1]),
            pointing=np.count_nonzero(highest[:, inside], axis=1) / np.count_nonzero(highest, axis=1),
            outside_inside=np.where(means[0] > 0, means[1] / means[0], np.nan),
            inside_outside=(means[0] - means[1]) / positive.max(axis=1),
            object_overlap=both / np.float64(area),
            background_overlap=1 - both / np.count_nonzero(high, axis=1),
            iou=both / np.count_nonzero(high | inside, axis=1),
        )


def _mean_above_0(values: np.ndarray) -> np.ndarray:
    """The mean of the positive values of every row (n, m), (n,); 0 for a row without any."""
    means: np.ndarray = values.sum(axis=1) / np.maximum(np.count_nonzero(values, axis=1), 1)
    return means


def pixels_on(region: Region, size: tuple[int, int]) -> np.ndarray:
    """Which pixels of an image of (Y, X) pixels have their centre on a region, (Y, X) bool."""
    return region.covers(centres(size[0], 1), centres(size[1], 1))


class _Columns:
    def __init__(self, num_prototypes: int) -> None:
        self.of_images = {name: array("d") for name in MapShares._fields}
        self.of_prototypes = {name: Means(num_prototypes) for name in MapShares._fields}
        self.areas = array("d")


class ObjectMaps:
    """The measure over a data set: the prototypes of each image's own class, for every kind of region there is."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context) -> None:
        if context.regions is None:
            raise LeftOutError(context.no_regions)
        self._regions, self._seed, self._is_paper = context.regions, context.seed, context.protocol == "paper"
        self._layer, self._own = model.prototype_layer, own_prototypes(model)
        self._columns: dict[str, _Columns] = {}
        self._unmarked = self._without_prototypes = 0

    def see(self, seen: Seen) -> None:
        size = (seen.images.shape[2], seen.images.shape[3])
        for row, (label, index) in enumerate(zip(seen.labels.tolist(), seen.index.tolist(), strict=True)):
            own, regions = self._own[label], self._regions(index)
            self._unmarked += not regions
            self._without_prototypes += len(own) == 0
            if len(own) == 0 or not regions:
                continue
            coarse = similarity_maps(self._layer, seen.features[row], own)
            maps = upsampled(coarse, size)
            if not self._is_paper:  # the interpolation falls below the least value beside a peak
                maps = torch.maximum(maps, coarse.flatten(1).amin(dim=1)[:, None, None])
            peaks = upsampled(peak_maps(coarse), size).cpu().numpy() if self._is_paper else None
            for name, region in regions.items():
                columns = self._columns.setdefault(name, _Columns(self._layer.num_prototypes))
                on = pixels_on(region, size)
                columns.areas.append(float(on.mean()))
                shares = map_shares(maps.cpu().numpy(), on)
                if peaks is not None:
                    of_peak = map_shares(peaks, on)
                    shares = shares._replace(energy=of_peak.energy, pointing=of_peak.pointing)
                for number, values in shares._asdict().items():
                    known = values[~np.isnan(values)]
                    columns.of_images[number].append(float(known.mean()) if len(known) else float("nan"))
                    columns.of_prototypes[number].add(own, values)

    def result(self) -> MeasureResult:
        if not self._columns:
            return MeasureResult(name=NAME, left_out="no image of this data set has a box or a mask")
        estimates, by_prototype = {}, {}
        for region, columns in sorted(self._columns.items(), key=lambda item: (item[0] != "mask", item[0])):
            for number, words in NUMBERS.items():
                unit: Literal["share", "number"] = "number" if number == "outside_inside" else "share"
                estimates[f"{region}, {words}"] = estimate(columns.of_images[number], seed=self._seed, unit=unit)
                by_prototype[f"{region}, {words}"] = columns.of_prototypes[number].values()
            estimates[f"{region}, share of the image"] = estimate(columns.areas, seed=self._seed)
        return MeasureResult(
            name=NAME,
            estimates=estimates,
            settings={"relevance is of": "the best patch alone" if self._is_paper else "the whole map"},
            skipped={
                "images without box and mask": self._unmarked,
                "images whose class has no prototype": self._without_prototypes,
            },
            prototypes=by_prototype,
        )
