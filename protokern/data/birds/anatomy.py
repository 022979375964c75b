"""Puts a whole bird together from its species and the way this one holds itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from protokern.data.birds.body import TAIL_ROOT, draw_breast, draw_tail, draw_wing
from protokern.data.birds.head import EYE, draw_beak, draw_crest_before, draw_crest_behind, draw_eye, draw_face
from protokern.data.birds.shapes import (
    Drawing,
    Group,
    Point,
    Shape,
    closed_curve,
    darker,
    lighter,
    path,
    stroke,
    turned,
)
from protokern.data.birds.species import Colour, Species

# The height at which the feet stand, and where between them.
FOOT: Point = (0.08, 0.47)

_LEG_COLOUR: Colour = (188, 120, 78)
_SHOULDER: Point = (0.18, -0.06)
_NECK: Point = (0.26, -0.20)

_BODY = closed_curve(
    path(
        "0.545,-0.255 0.50,-0.355 0.40,-0.425 0.28,-0.415 0.17,-0.32 0.02,-0.19 -0.18,-0.08 -0.36,0.03 "
        "-0.44,0.12 -0.30,0.22 -0.06,0.315 0.16,0.32 0.35,0.22 0.455,0.05 0.47,-0.09 0.505,-0.17"
    ),
    5,
)
_CROWN = closed_curve(path("0.53,-0.345 0.46,-0.45 0.30,-0.47 0.12,-0.33 0.24,-0.335 0.38,-0.36"))
_TAIL_CENTRES: dict[str, Point] = {"cocked": (-0.47, -0.17), "pointed": (-0.68, 0.22), "racket": (-0.54, 0.18)}
_USUAL_TAIL_CENTRE: Point = (-0.60, 0.19)


@dataclass(frozen=True, slots=True)
class Individual:
    """How one bird holds its parts, degrees; a few are natural."""

    tail_angle: float = 0.0
    wing_angle: float = 0.0
    head_angle: float = 0.0


def draw_bird(species: Species, individual: Individual) -> Drawing:
    """The bird from back to front, and its keypoints, in bird coordinates."""
    plumage, angle = species.plumage, individual.head_angle
    tail = _turn(draw_tail(species.tail, plumage), TAIL_ROOT, individual.tail_angle)
    behind = _turn(draw_crest_behind(species.crest, plumage), _NECK, angle)
    crown = Shape(_CROWN, lighter(plumage.back, 0.08), "crown")
    body = Group(
        Shape(_BODY, plumage.back, "body"),
        (*draw_breast(species.breast, plumage), crown, *_turn(draw_face(species.face, plumage), _NECK, angle)),
    )
    beak = draw_beak(species.beak, species.beak_colour)
    before = (*draw_crest_before(species.crest, plumage), *beak, *draw_eye(species.face))
    wing = draw_wing(species.wing, plumage)
    turned_wing = _turn((wing.ground, *wing.inside), _SHOULDER, individual.wing_angle)
    layers: tuple[Shape | Group, ...] = (
        *_leg(FOOT[0] - 0.06, darker(_LEG_COLOUR, 0.3)),
        *tail,
        *behind,
        body,
        *_turn(before, _NECK, angle),
        *_leg(FOOT[0] + 0.06, _LEG_COLOUR),
        Group(turned_wing[0], turned_wing[1:]),
    )
    keypoints = {
        "beak": _turn_point((0.60, -0.245), _NECK, angle),
        "crown": _turn_point((0.34, -0.41), _NECK, angle),
        "eye": _turn_point(EYE, _NECK, angle),
        "breast": (0.37, 0.05),
        "wing": _turn_point((-0.06, 0.03), _SHOULDER, individual.wing_angle),
        "tail": _turn_point(_TAIL_CENTRES.get(species.tail, _USUAL_TAIL_CENTRE), TAIL_ROOT, individual.tail_angle),
        "legs": (FOOT[0] + 0.05, 0.40),
    }
    return Drawing(layers, keypoints)


@cache
def _leg(x: float, colour: Colour) -> tuple[Shape, ...]:
    y = FOOT[1]
    thigh = closed_curve(((x - 0.07, 0.25), (x + 0.07, 0.25), (x + 0.025, 0.37), (x - 0.02, 0.37)))
    shank = stroke(((x, 0.33), (x - 0.012, 0.40), (x, y)), 0.036, 0.032)
    toes = [
        stroke(((x, y - 0.005), (x + reach / 2, y + 0.004), (x + reach, y + drop)), 0.032, 0.018)
        for reach, drop in ((0.11, 0.035), (0.065, 0.05), (-0.075, 0.03))
    ]
    return (
        Shape(thigh, darker(colour, 0.15), "legs"),
        Shape(shank, colour, "legs"),
        *(Shape(toe, colour, "legs") for toe in toes),
    )


def _turn(shapes: Sequence[Shape], about: Point, degrees: float) -> tuple[Shape, ...]:
    if not shapes:
        return ()
    ends = np.cumsum([len(shape.outline) for shape in shapes])
    together = turned(np.concatenate([shape.outline for shape in shapes]), about, degrees)
    outlines = np.split(together, ends[:-1])
    return tuple(Shape(outline, s.colour, s.part) for s, outline in zip(shapes, outlines, strict=True))


def _turn_point(point: Point, about: Point, degrees: float) -> Point:
    x, y = turned(np.array([point]), about, degrees)[0]
    return float(x), float(y)
