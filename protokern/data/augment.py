"""Random changes of viewpoint, online: each item is a quadrilateral of the stored photograph, resampled once.

Crop, rotation, shear, skew and mirroring are all corner movements, so any mix of them costs one bilinear pass. The
quadrilateral never leaves the photograph, so there are no black corners.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample

# Corners in the order top left, top right, bottom right, bottom left of the output; each (x, y) in the unit square.
Quad = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]

WHOLE_IMAGE: Quad = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Limits of the random changes of an image. Angles in degrees, drawn uniformly from both signs.

    Attributes:
        rotation: largest rotation, [0, 45].
        shear: largest shear along one axis, drawn at random, [0, 45].
        skew: largest share of an edge by which one side or corner is pulled in (perspective), [0, 0.5).
        smallest_crop: least area of the crop as a share of the image, (0, 1].
        largest_stretch: greatest change of the crop's aspect ratio, >= 1.
        flip_probability: chance of a mirror image, [0, 1].
        one_at_a_time: draw exactly one of rotation, shear and skew, as ProtoPNet's pipelines do, instead of all.
    """

    rotation: float = 0.0
    shear: float = 0.0
    skew: float = 0.0
    smallest_crop: float = 1.0
    largest_stretch: float = 1.0
    flip_probability: float = 0.0
    one_at_a_time: bool = False

    def __post_init__(self) -> None:
        ranges = {
            "rotation": 0 <= self.rotation <= 45,
            "shear": 0 <= self.shear <= 45,
            "skew": 0 <= self.skew < 0.5,
            "smallest_crop": 0 < self.smallest_crop <= 1,
            "largest_stretch": self.largest_stretch >= 1,
            "flip_probability": 0 <= self.flip_probability <= 1,
        }
        for name, holds in ranges.items():
            if not holds:
                raise ValueError(
                    f"augmentation.{name}: must be in its range; got {getattr(self, name)}. "
                    "See the documentation of Augmentation."
                )


PRESETS: dict[str, Augmentation | None] = {
    "none": None,
    # Source: ProtoPNet, img_aug.py: rotate 15, skew 0.2 or shear 10 degrees, each followed by a flip with p = 0.5.
    "protopnet": Augmentation(rotation=15, shear=10, skew=0.2, flip_probability=0.5, one_at_a_time=True),
    "crop": Augmentation(rotation=10, smallest_crop=0.5, largest_stretch=4 / 3, flip_probability=0.5),
}


def find_augmentation(augmentation: str | Augmentation | None) -> Augmentation | None:
    """The preset of that name, or the given augmentation itself; None means none.

    Raises:
        ValueError: no preset has that name.
    """
    if augmentation is None or isinstance(augmentation, Augmentation):
        return augmentation
    if augmentation not in PRESETS:
        raise ValueError(
            f"augmentation: must be one of {', '.join(PRESETS)}; got {augmentation!r}. "
            "Pass an Augmentation for other strengths."
        )
    return PRESETS[augmentation]


def draw_quad(augmentation: Augmentation, rng: np.random.Generator) -> Quad:
    """Draw the part of the image to use; every corner is in the unit square."""
    rotation, shear, skew = augmentation.rotation, augmentation.shear, augmentation.skew
    if augmentation.one_at_a_time:
        only = rng.integers(3)
        rotation, shear, skew = rotation * (only == 0), shear * (only == 1), skew * (only == 2)
    corners = _crop_corners(augmentation, rng)
    if shear:
        corners = _shear(corners, math.tan(math.radians(rng.uniform(-shear, shear))), along_x=bool(rng.integers(2)))
    if rotation:
        corners = _rotate(corners, math.radians(rng.uniform(-rotation, rotation)))
    corners = _place_inside(corners, rng)
    if skew:
        corners = _pull_in(corners, rng.uniform(0, skew), rng)
    if rng.random() < augmentation.flip_probability:
        corners = [corners[1], corners[0], corners[3], corners[2]]
    return corners[0], corners[1], corners[2], corners[3]


def inside_quad(quad: Quad, part: tuple[float, float, float, float]) -> Quad:
    """The quadrilateral in an image that a rectangle (x0, y0, x1, y1) of the resampled picture shows, in the unit
    square each."""
    a, b, c, d, e, f, g, h = _unit_square_to_quad(quad)
    x0, y0, x1, y1 = part

    def place(u: float, v: float) -> tuple[float, float]:
        scale = g * u + h * v + 1
        return (a * u + b * v + c) / scale, (d * u + e * v + f) / scale

    return place(x0, y0), place(x1, y0), place(x1, y1), place(x0, y1)


def warp(images: torch.Tensor, quads: Sequence[Quad], size: tuple[int, int]) -> torch.Tensor:
    """Resample a quadrilateral of each image to a rectangle, bilinear, in perspective.

    The result for an image does not depend on the others in the batch, bit for bit.

    Args:
        images: (B, C, Y', X') float32.
        quads: B quadrilaterals, corners in unit coordinates of the image.
        size: rows and columns of the result.

    Returns:
        (B, C, Y, X) float32.
    """
    rows, columns = size
    coefficients = torch.tensor([_unit_square_to_quad(quad) for quad in quads], dtype=torch.float32)
    a, b, c, d, e, f, g, h = coefficients[..., None, None].unbind(1)  # (B, 1, 1) each
    v = (torch.arange(rows, dtype=torch.float32) + 0.5).div_(rows).unsqueeze(1)  # (Y, 1)
    u = (torch.arange(columns, dtype=torch.float32) + 0.5).div_(columns)  # (X,)
    grid = torch.empty(len(quads), rows, columns, 2)
    torch.add(a * u + c, b * v, out=grid[..., 0])
    torch.add(d * u + f, e * v, out=grid[..., 1])
    grid.div_(((g * u + 1) + h * v)[..., None])
    grid.mul_(2).sub_(1)  # grid_sample counts from -1 to 1 across the image
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


def _crop_corners(augmentation: Augmentation, rng: np.random.Generator) -> list[tuple[float, float]]:
    area = rng.uniform(augmentation.smallest_crop, 1.0)
    stretch = math.log(augmentation.largest_stretch)
    ratio = math.exp(rng.uniform(-stretch, stretch))
    x, y = min(math.sqrt(area * ratio), 1.0) / 2, min(math.sqrt(area / ratio), 1.0) / 2
    return [(-x, -y), (x, -y), (x, y), (-x, y)]


def _shear(corners: list[tuple[float, float]], slope: float, *, along_x: bool) -> list[tuple[float, float]]:
    if along_x:
        return [(x + slope * y, y) for x, y in corners]
    return [(x, y + slope * x) for x, y in corners]


def _rotate(corners: list[tuple[float, float]], angle: float) -> list[tuple[float, float]]:
    cos, sin = math.cos(angle), math.sin(angle)
    return [(cos * x - sin * y, sin * x + cos * y) for x, y in corners]


def _place_inside(corners: list[tuple[float, float]], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Shrink a quadrilateral about the origin until it fits into the unit square, then put it anywhere inside."""
    half_x, half_y = max(x for x, _ in corners), max(y for _, y in corners)
    shrink = min(1.0, 0.5 / half_x, 0.5 / half_y)
    slack_x, slack_y = 0.5 - shrink * half_x, 0.5 - shrink * half_y
    centre_x, centre_y = 0.5 + rng.uniform(-slack_x, slack_x), 0.5 + rng.uniform(-slack_y, slack_y)
    return [(_clip(centre_x + shrink * x), _clip(centre_y + shrink * y)) for x, y in corners]


def _pull_in(corners: list[tuple[float, float]], amount: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Move one side's two ends towards each other, or one corner along one edge, by `amount` of that edge."""
    start = int(rng.integers(4))
    step = 1 if rng.integers(2) else -1
    along = (start + step) % 4
    moved = list(corners)
    moved[start] = _between(corners[start], corners[along], amount)
    if rng.random() < 0.75:  # three of the original's four kinds of skew tilt a whole side; one moves a corner
        moved[along] = _between(corners[along], corners[start], amount)
    return moved


def _between(start: tuple[float, float], end: tuple[float, float], share: float) -> tuple[float, float]:
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _clip(coordinate: float) -> float:
    return min(max(coordinate, 0.0), 1.0)


def _unit_square_to_quad(quad: Quad) -> tuple[float, float, float, float, float, float, float, float]:
    """Coefficients of x = (a u + b v + c) / (g u + h v + 1), y = (d u + e v + f) / (g u + h v + 1).

    Source: Heckbert 1989, Fundamentals of Texture Mapping and Image Warping, section 2.2.3.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = quad
    dx1, dy1, dx2, dy2 = x1 - x2, y1 - y2, x3 - x2, y3 - y2
    sum_x, sum_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    if abs(sum_x) < 1e-9 and abs(sum_y) < 1e-9:  # a parallelogram: affine
        return x1 - x0, x3 - x0, x0, y1 - y0, y3 - y0, y0, 0.0, 0.0
    area = dx1 * dy2 - dx2 * dy1
    g, h = (sum_x * dy2 - dx2 * sum_y) / area, (dx1 * sum_y - sum_x * dy1) / area
    return x1 - x0 + g * x1, x3 - x0 + h * x3, x0, y1 - y0 + g * y1, y3 - y0 + h * y3, y0, g, h
