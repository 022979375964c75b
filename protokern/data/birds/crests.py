"""The seven crests, on the crown of the head around (0.33, -0.42). The part is "crown"."""

from __future__ import annotations

from functools import cache

from protokern.data.birds.curves import closed_curve, disc, feather, path, stroke
from protokern.data.birds.shapes import Shape, darker, lighter
from protokern.data.birds.species import Plumage


def _pointed_crest(plumage: Plumage) -> list[Shape]:
    behind = closed_curve(path("0.47,-0.37 0.38,-0.50 0.22,-0.62 0.04,-0.68 0.12,-0.53 0.17,-0.36"))
    front = closed_curve(path("0.45,-0.38 0.37,-0.47 0.24,-0.56 0.12,-0.60 0.22,-0.45 0.28,-0.38"))
    return [Shape(behind, darker(plumage.accent, 0.25), "crown"), Shape(front, plumage.accent, "crown")]


def _fan_crest(plumage: Plumage) -> list[Shape]:
    shapes = []
    for x, y in path("0.06,-0.58 0.14,-0.70 0.26,-0.78 0.39,-0.80 0.51,-0.75"):
        tip = (0.36 + (x - 0.36) * 0.97, -0.36 + (y + 0.36) * 0.97)
        shapes.append(Shape(feather((0.36, -0.34), (x, y), 0.115, blunt=1.0), plumage.accent, "crown"))
        shapes.append(Shape(disc(tip, 0.042, 0.042, 12), darker(plumage.back, 0.7), "crown"))
    return shapes


def _curl_crest(plumage: Plumage) -> list[Shape]:
    stem = stroke(path("0.36,-0.40 0.35,-0.55 0.42,-0.66 0.53,-0.67"), 0.03, 0.045)
    ball = closed_curve(path("0.47,-0.70 0.57,-0.71 0.63,-0.63 0.59,-0.55 0.52,-0.58"))
    return [Shape(stem, darker(plumage.accent, 0.3), "crown"), Shape(ball, plumage.accent, "crown")]


def _spiky_crest(plumage: Plumage) -> list[Shape]:
    shapes = []
    for number, (base, tip) in enumerate(
        (
            ((0.20, -0.33), (0.06, -0.49)),
            ((0.24, -0.36), (0.13, -0.59)),
            ((0.30, -0.38), (0.23, -0.66)),
            ((0.36, -0.39), (0.34, -0.68)),
            ((0.42, -0.38), (0.45, -0.65)),
        )
    ):
        colour = plumage.accent if number % 2 else darker(plumage.accent, 0.22)
        shapes.append(Shape(feather(base, tip, 0.105, blunt=0.0), colour, "crown"))
    return shapes


def _plumed_crest(plumage: Plumage) -> list[Shape]:
    lower = stroke(path("0.30,-0.37 0.12,-0.42 -0.06,-0.36 -0.20,-0.22"), 0.075, 0.018, 6)
    upper = stroke(path("0.34,-0.40 0.14,-0.50 -0.08,-0.48 -0.26,-0.36"), 0.075, 0.018, 6)
    return [Shape(lower, darker(plumage.accent, 0.25), "crown"), Shape(upper, plumage.accent, "crown")]


def _capped_crest(plumage: Plumage) -> list[Shape]:
    cap = closed_curve(path("0.515,-0.335 0.46,-0.425 0.36,-0.465 0.24,-0.42 0.15,-0.31 0.22,-0.315 0.36,-0.345"))
    shine = closed_curve(path("0.44,-0.405 0.36,-0.445 0.26,-0.415 0.35,-0.415"))
    return [Shape(cap, plumage.accent, "crown"), Shape(shine, lighter(plumage.accent, 0.3), "crown")]


_STANDING = {"pointed": _pointed_crest, "fan": _fan_crest, "spiky": _spiky_crest, "plumed": _plumed_crest}
_LYING = {"curl": _curl_crest, "capped": _capped_crest}


@cache
def draw_crest_behind(form: str, plumage: Plumage) -> tuple[Shape, ...]:
    """What stands up behind the head, drawn before it; empty for the other crests."""
    return tuple(_STANDING[form](plumage)) if form in _STANDING else ()


@cache
def draw_crest_before(form: str, plumage: Plumage) -> tuple[Shape, ...]:
    """What lies on the head, drawn after it; empty for the other crests."""
    return tuple(_LYING[form](plumage)) if form in _LYING else ()
