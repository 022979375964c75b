"""Perturbation: does a match lose more by a change of the place where it is than by one of everything else?"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from protokern.metrics.context import Context, LeftOutError, Seen, draw
from protokern.metrics.maps import upsampled
from protokern.metrics.patches import Match, best_matches, own_prototypes
from protokern.metrics.results import Means, MeasureResult, estimate
from protokern.models.base import PrototypeModel

NAME = "perturbation"
PAPER_SIDE = 224  # pixels of the images for which blur and distortion are given
BLUR_REACH, BLUR_STD = 10, 2.0
PERIODS, AMPLITUDE = 5, 7.0
_LOW = 0.3  # of the attribution: where the box of the distortion's period ends
LOST = 0.1


def attribution(grid: tuple[int, int], patch: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Where a match is, (Y, X) in [0, 1]: 1 at a patch and 0 at all others, upsampled with bicubic interpolation.

    Source: Xu-Darme et al. 2024 (CaBRNet), `upsampling.py` with location "max".
    """
    at = torch.zeros(1, *grid)
    at[0, patch[0], patch[1]] = 1.0
    return upsampled(at, size)[0].clamp(0, 1)


def waves(image: Tensor, where: Tensor) -> Tensor:
    """An image (C, Y, X) whose rows, and then columns, are rolled by a sine with five periods over the match.

    Args:
        image: to change.
        where: (Y, X), its attribution.

    Source: CaBRNet `local_perturbation_analysis.py`, direction "both"; its seven pixels are of 224.
    """
    height, width = where.shape
    rows, columns = (np.flatnonzero((where > _LOW).any(dim=axis).cpu().numpy()) for axis in (1, 0))
    length = max(1, rows[-1] - rows[0], columns[-1] - columns[0]) if len(rows) else max(height, width)
    shifts = [
        torch.from_numpy(np.trunc(scale * np.sin(2 * np.pi * np.arange(side) * PERIODS / length)).astype(np.int64))
        for side, scale in ((height, AMPLITUDE * width / PAPER_SIDE), (width, AMPLITUDE * height / PAPER_SIDE))
    ]
    y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
    across = image[:, y, (x - shifts[0][:, None]) % width]
    return across[:, (y - shifts[1][None, :]) % height, x]


def perturbations(channels: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The changes that images with some number of channels can have, from image and attribution to an image."""
    from torchvision.transforms import functional  # takes a second to import

    def blurred(image: Tensor, where: Tensor) -> Tensor:
        sides = [image.shape[2], image.shape[1]]
        reach = [min(max(1, round(BLUR_REACH * side / PAPER_SIDE)), side - 1) for side in sides]
        changed: Tensor = functional.gaussian_blur(
            image, [2 * one + 1 for one in reach], [BLUR_STD * side / PAPER_SIDE for side in sides]
        )
        return changed

    light: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "brightness": lambda image, _: functional.adjust_brightness(image, 0.3),
        "contrast": lambda image, _: functional.adjust_contrast(image, 0.2),
    }
    colour: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "saturation": lambda image, _: functional.adjust_saturation(image, 0.3),
        "hue": lambda image, _: functional.adjust_hue(image, 0.2),
    }
    known = (light if channels in (1, 3) else {}) | (colour if channels == 3 else {})
    return known | {"blur": blurred, "waves": waves}


class Perturbation:
    """The measure over a drawn part of a data set: the best prototype of each image's own class."""

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context, num_images: int) -> None:
        if model.prototype_layer.activation == "linear" and not model.prototype_layer.is_projected:
            raise LeftOutError("a similarity that is the negative distance has no share that could be lost")
        self._model, self._seed = model, context.seed
        self._chosen = draw(num_images, context)
        self._own = own_prototypes(model)
        self._columns: dict[str, array[float]] = {}
        self._by_prototype = {name: Means(model.num_prototypes) for name in ("on the match", "elsewhere")}
        self._largest = np.full(model.num_prototypes, np.nan)
        self._taken = self._without_prototypes = self._unknown = 0

    def see(self, seen: Seen) -> None:
        matches, without = best_matches(seen, self._own, self._chosen, self._model.prototype_layer.prototype_size)
        self._without_prototypes += without
        self._taken += len(matches) + without
        for match in matches:
            drops = self._drops(seen, match)
            if drops is None:
                self._unknown += 1
                continue
            for name, (on, elsewhere) in drops.items():
                self._columns.setdefault(f"{name}, on the match", array("d")).append(on)
                self._columns.setdefault(f"{name}, elsewhere", array("d")).append(elsewhere)
            values = np.array(list(drops.values()))  # (n, 2)
            for place, means in enumerate(self._by_prototype.values()):
                means.add(match.prototype, float(values[:, place].mean()))
            self._largest[match.prototype] = np.fmax(self._largest[match.prototype], values[:, 0].max())

    def _drops(self, seen: Seen, match: Match) -> dict[str, tuple[float, float]] | None:
        """Per perturbation the share of the similarity that is lost on the match and elsewhere."""
        image, layer = seen.images[match.row], self._model.prototype_layer
        height, width = layer.prototype_size
        grid = (seen.cells[0] - height + 1, seen.cells[1] - width + 1)
        where = attribution(grid, match.patch, (image.shape[1], image.shape[2])).to(image)
        changes = {name: change(image, where) for name, change in perturbations(image.shape[0]).items()}
        merged = [share * changed + (1 - share) * image for changed in changes.values() for share in (where, 1 - where)]
        features = self._model.features(torch.stack([image, *merged]))
        patch = torch.tensor([[match.patch[0] * grid[1] + match.patch[1]]], device=features.device)
        index = torch.tensor([match.prototype], device=features.device)
        distance = layer.distance_at(features, patch.expand(len(features), 1), index)
        similarity = layer.activate(distance)[:, 0].double().tolist()
        whole = similarity[0]
        if not whole > 0:
            return None
        lost = [(whole - one) / whole for one in similarity[1:]]
        return {name: (lost[2 * n], lost[2 * n + 1]) for n, name in enumerate(changes)}

    def result(self) -> MeasureResult:
        estimates = {name: estimate(values, seed=self._seed) for name, values in self._columns.items()}
        columns = {f"mean drop {name}": means.values() for name, means in self._by_prototype.items()}
        columns["largest drop on the match"] = self._largest.tolist()
        loses = [math.nan if math.isnan(one) else float(one > LOST) for one in self._largest]
        estimates["prototypes that lose more than a tenth"] = estimate(loses, seed=self._seed, over="prototypes")
        return MeasureResult(
            name=NAME,
            estimates=estimates,
            settings={"images drawn": self._taken},
            skipped={
                "images whose class has no prototype": self._without_prototypes,
                "images whose best similarity is not above 0": self._unknown,
            },
            prototypes=columns,
        )
