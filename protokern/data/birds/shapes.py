"""A drawing as a list of filled outlines in the bird's own coordinates, from back to front.

The unit is the bird's body length; x points to the beak, y down, the origin is the middle of the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protokern.data.birds.curves import Point
from protokern.data.birds.species import Colour

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
