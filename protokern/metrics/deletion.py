"""Deletion and insertion: is the shown evidence needed for the answer, and is it enough?"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from protokern.metrics.context import Box, Context, Seen, draw, weight_of_points
from protokern.metrics.fills import WORDS, check_fill, other_image, replaced
from protokern.metrics.patches import around_patch
from protokern.metrics.results import MeasureResult, estimate
from protokern.models.base import PrototypeModel

NAME = "deletion"
FRAME = "grid"  # the frames that are drawn without searching


def versions(image: Tensor, rest: Tensor, boxes: Sequence[Box]) -> Tensor:
    """An image without some boxes, and with nothing but them, (2, C, Y, X).

    Args:
        image: (C, Y, X).
        rest: (C, Y, X), what takes the place of pixels that are left out.
        boxes: (y0, x0, y1, x1) each, half open, pixels.
    """
    mask = torch.zeros(image.shape[1:], dtype=torch.bool, device=image.device)
    for y0, x0, y1, x1 in boxes:
        mask[y0:y1, x0:x1] = True
    return torch.stack([torch.where(mask, rest, image), torch.where(mask, image, rest)])


def moved(boxes: Sequence[Box], size: tuple[int, int], seed: Sequence[int]) -> list[Box]:
    """Boxes of the same sizes at random places of an image of (Y, X) pixels, drawn by the seed."""
    rng = np.random.default_rng(list(seed))
    placed = []
    for y0, x0, y1, x1 in boxes:
        top, left = (
            int(rng.integers(side - length + 1)) for side, length in zip(size, (y1 - y0, x1 - x0), strict=True)
        )
        placed.append((top, left, top + y1 - y0, left + x1 - x0))
    return placed


class Deletion:
    """The measure over a drawn part of a data set: the prototypes with the most points for each answer.

    Source: Petsiuk et al. 2018 (RISE), with frames in place of single pixels and the ends of the curve in place of its
        area.
    """

    needs_images = True

    def __init__(self, model: PrototypeModel, context: Context, num_images: int) -> None:
        check_fill(context, num_images)
        self._model, self._context, self._num_images = model, context, num_images
        self._chosen = draw(num_images, context)
        self._weight = weight_of_points(model)  # (K, P)
        self._before = array("d")
        self._area = array("d")
        # Without and with: the strongest frame, all frames, and both at random places.
        self._columns = {
            f"{kind} the {what}{where}": array("d")
            for where in ("", ", at random places")
            for what in ("strongest frame", f"{context.shown} frames")
            for kind in ("without", "with nothing but")
        }

    def see(self, seen: Seen) -> None:
        for row, index in enumerate(seen.index.tolist()):
            if index not in self._chosen:
                continue
            answer = int(seen.output.logits[row].argmax())
            boxes = self._frames(seen, row, answer)
            image = seen.images[row]
            size = (image.shape[1], image.shape[2])
            rest = replaced(image, self._context.fill, other_image(self._context, index, self._num_images, image))
            elsewhere = moved(boxes, size, (self._context.seed, index))
            changed = torch.cat(
                [versions(image, rest, some) for every in (boxes, elsewhere) for some in (every[:1], every)]
            )
            logits = self._model.head(self._model.features(changed)).logits
            self._before.append(float(seen.output.logits[row].double().softmax(dim=0)[answer]))
            confidence = logits.double().softmax(dim=1)[:, answer].tolist()
            for column, value in zip(self._columns.values(), confidence, strict=True):
                column.append(value)
            self._area.append(_covered(boxes, size))

    def _frames(self, seen: Seen, row: int, answer: int) -> list[Box]:
        """The frames of the prototypes with the most points for an answer, strongest first."""
        layer, image = self._model.prototype_layer, seen.images[row]
        points = seen.output.activations[row] * self._weight[answer]
        strongest = points.argsort(descending=True, stable=True)[: self._context.shown].tolist()
        columns = seen.cells[1] - layer.prototype_size[1] + 1
        frame_of = self._context.frames.get(FRAME)
        boxes: list[Box] = []
        for prototype in strongest:
            patch = divmod(int(seen.output.patches[row, prototype]), columns)
            frame = None if frame_of is None else frame_of(image, prototype, patch)
            size = (image.shape[1], image.shape[2])
            boxes.append(frame or around_patch(patch, 0, seen.cells, layer.prototype_size, size))
        return boxes

    def result(self) -> MeasureResult:
        seed = self._context.seed
        estimates = {"confidence before": estimate(self._before, seed=seed)}
        estimates |= {name: estimate(values, seed=seed) for name, values in self._columns.items()}
        estimates["area of the frames, median"] = estimate(self._area, seed=seed, statistic="median")
        has_frames = FRAME in self._context.frames
        settings: dict[str, str | int] = {
            "images drawn": len(self._before),
            "frames": f"{FRAME} frames" if has_frames else "cells of the patches",
            "the rest is": WORDS[self._context.fill],
        }
        return MeasureResult(name=NAME, estimates=estimates, settings=settings)


def _covered(boxes: Sequence[Box], size: tuple[int, int]) -> float:
    """Share of an image's pixels that are in any of the boxes."""
    mask = np.zeros(size, dtype=bool)
    for y0, x0, y1, x1 in boxes:
        mask[y0:y1, x0:x1] = True
    return float(mask.mean())
