"""A drawing as a list of filled outlines in the bird's own coordinates, from back to front.

The unit is the bird's body length; x points to the beak, y down, the origin is the middle of the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from protokern.data.birds.species import Colour

Point = tuple[float, float]


def path(text: str) -> tuple[Point, ...]:
    """Points written as in SVG: "x,y x,y x,y"."""
    pairs = (pair.split(",") for pair in text.split())
    return tuple((float(x), float(y)) for x, y in pairs)


@cache
def _basis(samples: int) -> np.ndarray:
    """(samples, 4): weights of four neighbouring points along one Catmull-Rom segment."""
    t = np.arange(samples) / samples
    return 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], axis=1)


def closed_curve(points: tuple[Point, ...], samples: int = 6) -> np.ndarray:
    """A smooth closed outline through the points (Catmull-Rom), `samples` corners for each."""
    through = np.array(points)
    near = np.stack([np.roll(through, shift, axis=0) for shift in (1, 0, -1, -2)])  # (4, N, 2)
    curve = (_basis(samples)[:, :, None, None] * near[None]).sum(axis=1)  # (samples, N, 2)
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def open_curve(points: tuple[Point, ...], samples: int = 6) -> np.ndarray:
    """A smooth line from the first point to the last one."""
    through = np.array((points[0], *points, points[-1]))
    near = np.stack([through[i : len(points) - 1 + i] for i in range(4)])  # (4, N - 1, 2)
    curve = (_basis(samples)[:, :, None, None] * near[None]).sum(axis=1).transpose(1, 0, 2).reshape(-1, 2)
    return np.concatenate([curve, [points[-1]]])


def stroke(points: tuple[Point, ...], start_width: float, end_width: float, samples: int = 4) -> np.ndarray:
    """A smooth line with a width that changes evenly from one end to the other, as an outline."""
    line = open_curve(points, samples)
    along = np.gradient(line, axis=0)
    length = np.sqrt((along**2).sum(axis=1, keepdims=True))
    across = along[:, ::-1] * np.array([-1.0, 1.0]) / length
    width = np.linspace(start_width, end_width, len(line))[:, None] / 2
    return np.concatenate([line + across * width, (line - across * width)[::-1]])


def feather(start: Point, end: Point, width: float, bend: float = 0.0, blunt: float = 0.5) -> np.ndarray:
    """A long leaf from `start` to `end`; `bend` bows it sideways, `blunt` in [0, 1] rounds its end."""
    x0, y0 = start
    dx, dy = end[0] - x0, end[1] - y0
    profile = (
        (0.0, 0.25),
        (0.3, 0.45),
        (0.7, 0.5),
        (0.9, 0.2 + 0.25 * blunt),
        (1.0, 0.0),
        (0.9, -0.2 - 0.25 * blunt),
        (0.7, -0.5),
        (0.3, -0.45),
        (0.0, -0.25),
    )
    length = (dx * dx + dy * dy) ** 0.5
    outline = []
    for along, side in profile:
        offset = (side * width + bend * 4 * along * (1 - along)) / length
        outline.append((x0 + dx * along - dy * offset, y0 + dy * along + dx * offset))
    return closed_curve(tuple(outline), 3)


def disc(centre: Point, radius_x: float, radius_y: float, corners: int = 20) -> np.ndarray:
    """An ellipse with upright axes."""
    angle = 2 * np.pi * np.arange(corners) / corners
    return np.stack([centre[0] + radius_x * np.cos(angle), centre[1] + radius_y * np.sin(angle)], axis=1)


def turned(points: np.ndarray, about: Point, degrees: float) -> np.ndarray:
    """The points rotated clockwise on the screen about a fixed point."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = points[:, 0] - about[0], points[:, 1] - about[1]
    return np.stack([about[0] + cos * x - sin * y, about[1] + sin * x + cos * y], axis=1)


# Parts that are annotated; the number of a part is its place in the label picture, 0 is the background.
LABELS = ("background", "body", "beak", "crown", "eye", "breast", "wing", "tail", "legs")
LABEL_OF = {name: number for number, name in enumerate(LABELS)}


@dataclass(frozen=True, slots=True)
class Shape:
    """One filled outline that belongs to a part; part "" leaves the labels below it as they are."""

    outline: np.ndarray  # (N, 2)
    colour: Colour
    part: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Shapes that show only inside the outline of `ground`."""

    ground: Shape
    inside: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A whole bird and where its parts are."""

    layers: tuple[Shape | Group, ...]
    keypoints: dict[str, Point]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with a share of `second`, in [0, 1]."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(colour: Colour, share: float) -> Colour:
    return mix(colour, (16, 14, 24), share)


def lighter(colour: Colour, share: float) -> Colour:
    return mix(colour, (255, 252, 244), share)
