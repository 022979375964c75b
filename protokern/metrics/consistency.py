"""Consistency and stability: does a prototype always mean the same part, and also under noise nobody sees?"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch

from protokern.metrics.context import Context, LeftOutError, Part, Seen, draw
from protokern.metrics.noise import noise_for
from protokern.metrics.part_boxes import PartsOfMatches
from protokern.metrics.patches import own_prototypes
from protokern.metrics.results import Means, MeasureResult, estimate
from protokern.models.base import PrototypeModel

CONSISTENCY, STABILITY = "consistency", "stability"
BOX = 72  # pixels of 224
CONSISTENT = 0.8
NOISE, MOST_NOISE = 0.2, 0.25  # of the image that ImageNet's standard deviation normalises
NO_PARTS = "no image of this data set has part centres"


def best_part(hits: Mapping[str, int], visible: Mapping[str, int]) -> tuple[str, float]:
    """The part that is most often in a prototype's box where it can be seen, and how often, in [0, 1].

    Args:
        hits: in how many images each part is in the box.
        visible: in how many images each part can be seen.

    Returns:
        Of equal shares that with more hits, then the first by name; ("", NaN) if no part can be seen in any image.
    """
    if not visible:
        return "", math.nan
    name = min(visible, key=lambda part: (-hits.get(part, 0) / visible[part], -hits.get(part, 0), part))
    return name, hits.get(name, 0) / visible[name]


class Consistency:
    """The measure over a data set: the prototypes of each image's own class."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context) -> None:
        if context.parts is None:
            raise LeftOutError(context.no_parts)
        self._parts, self._seed = context.parts, context.seed
        self._finder = PartsOfMatches(model.prototype_layer, context, BOX)
        self._own = own_prototypes(model)
        self._hits: list[Counter[str]] = [Counter() for _ in range(model.num_prototypes)]
        self._visible: list[Counter[str]] = [Counter() for _ in range(model.num_prototypes)]
        self._unmarked = self._without_prototypes = self._taken = 0

    def see(self, seen: Seen) -> None:
        patches = seen.output.patches.cpu().numpy()
        size = (seen.images.shape[2], seen.images.shape[3])
        for row, (label, index) in enumerate(zip(seen.labels.tolist(), seen.index.tolist(), strict=True)):
            parts, own = self._parts(index), self._own[label]
            self._unmarked += not parts
            self._without_prototypes += len(own) == 0
            if not parts or len(own) == 0:
                continue
            self._taken += 1
            names = {part.name for part in parts}
            near = self._finder.near(parts, seen.features[row], own, patches[row, own], size)
            for prototype, found in zip(own.tolist(), near, strict=True):
                self._visible[prototype].update(names)
                self._hits[prototype].update(found)

    def result(self) -> MeasureResult:
        if not self._taken:
            return MeasureResult(name=CONSISTENCY, left_out=NO_PARTS)
        best = [best_part(hits, visible) for hits, visible in zip(self._hits, self._visible, strict=True)]
        shares = [share for _, share in best]
        is_consistent = [math.nan if math.isnan(share) else float(share >= CONSISTENT) for share in shares]
        return MeasureResult(
            name=CONSISTENCY,
            estimates={
                "consistent prototypes": estimate(is_consistent, seed=self._seed, over="prototypes"),
                "share with the best part": estimate(shares, seed=self._seed, over="prototypes"),
            },
            settings={"images": self._taken, "consistent from": f"{CONSISTENT:.0%}", **self._finder.words},
            skipped={
                "images without part centres": self._unmarked,
                "images whose class has no prototype": self._without_prototypes,
            },
            prototypes={
                "consistent": is_consistent,
                "best part": [name for name, _ in best],
                "share with the best part": shares,
            },
        )


class Stability:
    """The measure over a drawn part of a data set, or all of it by the papers: the prototypes of each image's class."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context, num_images: int) -> None:
        self._model, self._context = model, context
        self._chosen = frozenset(range(num_images)) if context.protocol == "paper" else draw(num_images, context)
        self._finder = PartsOfMatches(model.prototype_layer, context, BOX)
        self._own = own_prototypes(model)
        self._same_patch = array("d")
        self._patch_of = Means(model.num_prototypes)
        self._parts_of = Means(model.num_prototypes)
        self._unmarked = self._without_prototypes = 0

    def see(self, seen: Seen) -> None:
        labels, index = seen.labels.tolist(), seen.index.tolist()
        rows = [row for row, one in enumerate(index) if one in self._chosen and len(self._own[labels[row]])]
        drawn = sum(one in self._chosen for one in index)
        self._without_prototypes += drawn - len(rows)
        if not rows:
            return
        noise = (
            noise_for(seen.images[row], index[row], std=NOISE, most=MOST_NOISE, seed=self._context.seed) for row in rows
        )
        noisy = torch.stack([seen.images[row] + one for row, one in zip(rows, noise, strict=True)])
        features = self._model.features(noisy)
        patches = self._model.head(features).patches.cpu().numpy()
        before = seen.output.patches.cpu().numpy()
        size = (noisy.shape[2], noisy.shape[3])
        for position, row in enumerate(rows):
            own = self._own[labels[row]]
            is_same = (patches[position, own] == before[row, own]).astype(np.float64)
            self._same_patch.append(float(is_same.mean()))
            self._patch_of.add(own, is_same)
            parts = self._parts_at(index[row])
            if not parts:
                self._unmarked += 1
                continue
            near = [
                self._finder.near(parts, some[at], own, where[at, own], size)
                for some, where, at in ((seen.features, before, row), (features, patches, position))
            ]
            is_equal = [float(one == other) for one, other in zip(*near, strict=True)]
            self._parts_of.add(own, np.array(is_equal))

    def _parts_at(self, index: int) -> tuple[Part, ...]:
        return () if self._context.parts is None else tuple(self._context.parts(index))

    def result(self) -> MeasureResult:
        seed, number = self._context.seed, len(self._same_patch)
        if not number:
            return MeasureResult(name=STABILITY, left_out="no drawn image belongs to a class with prototypes")
        has_parts = self._unmarked < number
        estimates = {"same patch": estimate(self._same_patch, seed=seed)}
        columns = {"same patch": self._patch_of.values()}
        settings: dict[str, str | int] = {"images": number, "seed of the noise": seed}
        skipped = {"images whose class has no prototype": self._without_prototypes}
        if has_parts:
            columns["same parts"] = self._parts_of.values()
            estimates["same parts"] = estimate(columns["same parts"], seed=seed, over="prototypes")
            settings |= self._finder.words
            skipped["images without part centres"] = self._unmarked
        else:
            settings["parts"] = self._context.no_parts if self._context.parts is None else NO_PARTS
        return MeasureResult(
            name=STABILITY, estimates=estimates, settings=settings, skipped=skipped, prototypes=columns
        )
