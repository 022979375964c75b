"""Where the parts of a painted bird are, and how many prototypes look at the bird."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protokern.data.birds.scene import Scene
from protokern.data.birds.shapes import LABEL_OF, LABELS

ANNOTATED_PARTS = LABELS[2:]


@dataclass(frozen=True, slots=True)
class BirdAnnotation:
    """The truth about one picture, in its pixels.

    Attributes:
        keypoints: for each of `ANNOTATED_PARTS`: (y, x, visible); not visible where something is in front.
        masks: for each of `ANNOTATED_PARTS`, and "bird" for the whole bird: (Y, X) bool, at least half covered.
        box: (y0, x0, y1, x1) of the bird, half open.
    """

    keypoints: dict[str, tuple[float, float, bool]]
    masks: dict[str, np.ndarray]
    box: tuple[int, int, int, int]


def annotate(scene: Scene) -> BirdAnnotation:
    """Read the annotation off a painted scene."""
    masks = {part: scene.canvas.coverage(part) >= 0.5 for part in ANNOTATED_PARTS}
    masks["bird"] = scene.canvas.coverage() >= 0.5
    finer, labels = scene.canvas.finer, np.asarray(scene.canvas.labels)
    keypoints = {}
    for part, point in scene.drawing.keypoints.items():
        x, y = scene.pose.place(np.array([point]))[0].tolist()
        seen = labels[min(int(y * finer), labels.shape[0] - 1), min(int(x * finer), labels.shape[1] - 1)]
        keypoints[part] = (y, x, bool(seen == LABEL_OF[part]))
    rows, columns = np.flatnonzero(masks["bird"].any(axis=1)), np.flatnonzero(masks["bird"].any(axis=0))
    box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    return BirdAnnotation(keypoints, masks, box)


def share_on_bird(masks: Sequence[np.ndarray], patch: Sequence[int], grid: tuple[int, int]) -> float:
    """The share of patches whose centre lies on the bird.

    Args:
        masks: for each patch the mask of the bird in its image, (Y, X) bool.
        patch: flat index row * W' + column of each patch.
        grid: (H', W'), the patch grid that is spread evenly over the image.

    Returns:
        In [0, 1]; NaN without patches.
    """
    hits = []
    for mask, index in zip(masks, patch, strict=True):
        row, column = divmod(int(index), grid[1])
        y, x = int((row + 0.5) * mask.shape[0] / grid[0]), int((column + 0.5) * mask.shape[1] / grid[1])
        hits.append(bool(mask[y, x]))
    return sum(hits) / len(hits) if hits else float("nan")
