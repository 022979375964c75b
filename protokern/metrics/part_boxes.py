"""Which parts of an image are in the box around a match: the papers' fixed boxes, scaled with the image."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from protokern.metrics.context import Context, Part
from protokern.metrics.maps import similarity_maps, upsampled
from protokern.metrics.patches import centres
from protokern.nn import PatchLayer

PAPER_SIDE = 224  # pixels of the images for which the papers give their boxes
_SIDE_WORDS = frozenset({"left", "right"})


def merged(name: str) -> str:
    """The name of a part without its side: "left eye" and "right eye" are both "eye"."""
    words = [word for word in re.split(r"[\s_-]+", name) if word.lower() not in _SIDE_WORDS]
    return " ".join(words) or name


def half_side(pixels: int, area: float | None) -> float:
    """Half of the side of a box as a share of the image's side.

    Args:
        pixels: its side in images of 224 pixels.
        area: share of the image that it covers instead; None: as the papers.
    """
    return pixels / PAPER_SIDE / 2 if area is None else math.sqrt(area) / 2


def parts_around(parts: Sequence[Part], centre: tuple[float, float], half: float) -> frozenset[str]:
    """The names of the parts in a box, its border included.

    Args:
        parts: the visible ones.
        centre: (y, x) of the box, as shares of the image's sides.
        half: half of its sides, as a share of them. Where the box leaves the image there is nothing to find.
    """
    y, x = centre
    return frozenset(part.name for part in parts if abs(part.y - y) <= half and abs(part.x - x) <= half)


def parts_around_peak(
    parts: Sequence[Part], peak: tuple[int, int], size: tuple[int, int], half: float
) -> frozenset[str]:
    """The same around the highest pixel of an image's map, in whole pixels, as the released program counts.

    Args:
        parts: the visible ones.
        peak: (row, column) of the pixel.
        size: (Y, X) of the image.
        half: as above.

    Source: Huang et al. 2023, hqhQAQ/EvalProtoPNet util/eval_interpretability.py.
    """
    reach = [round(half * side) for side in size]
    return frozenset(
        part.name
        for part in parts
        if abs(int(size[0] * part.y) - peak[0]) <= reach[0] and abs(int(size[1] * part.x) - peak[1]) <= reach[1]
    )


class PartsOfMatches:
    """The parts around the matches of some prototypes in an image, by the protocol of the context.

    Args:
        layer: of the model.
        context: says the protocol and the area of the box.
        pixels: side of the box in images of 224 pixels.
    """

    def __init__(self, layer: PatchLayer, context: Context, pixels: int) -> None:
        self._layer, self._is_paper = layer, context.protocol == "paper"
        self._half = half_side(pixels, context.part_area)

    @property
    def words(self) -> dict[str, str | int]:
        """How parts are looked for, for the settings of a result."""
        around = "the highest pixel of the upsampled map" if self._is_paper else "the centre of the nearest patch"
        return {"side of the box, share of the image's": f"{2 * self._half:.3f}", "the box is around": around}

    def near(
        self,
        parts: Sequence[Part],
        features: Tensor,
        prototypes: np.ndarray,
        patches: np.ndarray,
        size: tuple[int, int],
    ) -> list[frozenset[str]]:
        """For each of n prototypes the names of the parts around its match.

        Args:
            parts: the visible ones in the image.
            features: (D, H, W) of the image.
            prototypes: (n,), their indices.
            patches: (n,), the nearest patch of each.
            size: (Y, X) of the image.
        """
        if self._is_paper:
            return [
                parts_around_peak(parts, peak, size, self._half) for peak in self._peaks(features, prototypes, size)
            ]
        (rows, below), (columns, right) = (
            centres(cells, length) for cells, length in zip(features.shape[1:], self._layer.prototype_size, strict=True)
        )
        at, left = np.divmod(patches, len(columns))
        points = zip((rows[at] / below).tolist(), (columns[left] / right).tolist(), strict=True)
        return [parts_around(parts, point, self._half) for point in points]

    def _peaks(self, features: Tensor, prototypes: np.ndarray, size: tuple[int, int]) -> list[tuple[int, int]]:
        large = upsampled(similarity_maps(self._layer, features, prototypes), size)
        highest = large.flatten(1).argmax(dim=1).tolist()
        return [divmod(flat, size[1]) for flat in highest]
