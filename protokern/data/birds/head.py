"""The head of a bird: its beak, its crest, and the eye with the pattern around it. Seven forms of each.

Beaks start at the front of the head, around (0.5, -0.25); crests stand on the crown, around (0.33, -0.42). The parts
are "beak", "crown" and "eye"; the pattern of a face is painted on the head and is no part.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from protokern.data.birds.shapes import Shape, closed_curve, darker, disc, feather, lighter, path, stroke
from protokern.data.birds.species import Colour, Plumage

_HORN: Colour = (202, 178, 150)
_CHARCOAL: Colour = (42, 40, 46)
_YELLOW: Colour = (242, 190, 44)
_CORAL: Colour = (226, 82, 58)
_ORANGE: Colour = (244, 142, 34)


def _cone_beak() -> list[Shape]:
    lower = closed_curve(path("0.47,-0.24 0.60,-0.232 0.675,-0.228 0.60,-0.185 0.50,-0.165"))
    upper = closed_curve(path("0.47,-0.25 0.49,-0.325 0.59,-0.300 0.695,-0.225 0.60,-0.236"))
    return [Shape(lower, darker(_HORN, 0.25), "beak"), Shape(upper, _HORN, "beak")]


def _needle_beak() -> list[Shape]:
    beak = stroke(((0.48, -0.25), (0.68, -0.262), (0.89, -0.245)), 0.085, 0.016, 6)
    shine = stroke(((0.53, -0.268), (0.68, -0.274), (0.83, -0.259)), 0.018, 0.006, 4)
    return [Shape(beak, _CHARCOAL, "beak"), Shape(shine, lighter(_CHARCOAL, 0.35), "beak")]


def _hook_beak() -> list[Shape]:
    lower = closed_curve(path("0.47,-0.23 0.57,-0.222 0.63,-0.19 0.55,-0.155 0.49,-0.165"))
    upper = closed_curve(path("0.46,-0.24 0.48,-0.34 0.60,-0.335 0.70,-0.255 0.705,-0.125 0.655,-0.20 0.57,-0.225"))
    cere = closed_curve(path("0.46,-0.25 0.475,-0.335 0.53,-0.335 0.54,-0.28 0.52,-0.235"))
    tip = closed_curve(path("0.675,-0.255 0.705,-0.235 0.705,-0.125 0.66,-0.205"))
    return [
        Shape(lower, darker(_YELLOW, 0.35), "beak"),
        Shape(upper, _YELLOW, "beak"),
        Shape(cere, lighter(_YELLOW, 0.35), "beak"),
        Shape(tip, darker(_YELLOW, 0.75), "beak"),
    ]


def _curved_beak() -> list[Shape]:
    beak = stroke(path("0.48,-0.25 0.66,-0.262 0.82,-0.18 0.89,-0.03"), 0.095, 0.022, 6)
    ridge = stroke(((0.54, -0.275), (0.66, -0.28), (0.81, -0.20)), 0.022, 0.012, 4)
    return [Shape(beak, _CORAL, "beak"), Shape(ridge, lighter(_CORAL, 0.45), "beak")]


def _spoon_beak() -> list[Shape]:
    lower = closed_curve(path("0.47,-0.22 0.64,-0.195 0.80,-0.175 0.84,-0.19 0.68,-0.155 0.49,-0.165"))
    upper = closed_curve(path("0.46,-0.26 0.50,-0.325 0.62,-0.255 0.76,-0.265 0.86,-0.225 0.83,-0.175 0.66,-0.19"))
    nail = disc((0.835, -0.205), 0.026, 0.022, 10)
    return [
        Shape(lower, darker(_YELLOW, 0.4), "beak"),
        Shape(upper, _YELLOW, "beak"),
        Shape(nail, darker(_YELLOW, 0.6), "beak"),
    ]


def _giant_beak() -> list[Shape]:
    lower = closed_curve(path("0.44,-0.22 0.66,-0.205 0.86,-0.125 0.74,-0.12 0.56,-0.12 0.46,-0.15"))
    upper = closed_curve(
        path("0.44,-0.24 0.47,-0.37 0.64,-0.405 0.84,-0.325 0.935,-0.155 0.90,-0.085 0.86,-0.155 0.66,-0.215")
    )
    tip = closed_curve(path("0.84,-0.325 0.935,-0.155 0.90,-0.085 0.86,-0.155 0.80,-0.19"))
    band = stroke(((0.475, -0.365), (0.50, -0.29), (0.49, -0.135)), 0.05, 0.045)
    ridge = stroke(((0.54, -0.375), (0.66, -0.375), (0.80, -0.315)), 0.03, 0.02)
    return [
        Shape(lower, darker(_ORANGE, 0.2), "beak"),
        Shape(upper, _ORANGE, "beak"),
        Shape(ridge, lighter(_ORANGE, 0.5), "beak"),
        Shape(tip, _CHARCOAL, "beak"),
        Shape(band, _CHARCOAL, "beak"),
    ]


def _dagger_beak() -> list[Shape]:
    lower = closed_curve(path("0.46,-0.235 0.66,-0.235 0.85,-0.238 0.67,-0.185 0.49,-0.17"))
    upper = closed_curve(path("0.46,-0.24 0.48,-0.33 0.66,-0.295 0.875,-0.24 0.66,-0.232"))
    return [Shape(lower, _CORAL, "beak"), Shape(upper, _CHARCOAL, "beak")]


_BEAKS = {
    "cone": _cone_beak,
    "needle": _needle_beak,
    "hook": _hook_beak,
    "curved": _curved_beak,
    "spoon": _spoon_beak,
    "giant": _giant_beak,
    "dagger": _dagger_beak,
}


@cache
def draw_beak(form: str, colour: Colour | None = None) -> tuple[Shape, ...]:
    """The beak of that name, back to front, in its own colours or all of it in one."""
    shapes = _BEAKS[form]()
    return tuple(shapes if colour is None else [replace(shape, colour=colour) for shape in shapes])


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


EYE = (0.405, -0.285)

_WHITE: Colour = (250, 248, 242)
_BLACK: Colour = (30, 28, 36)
_RED: Colour = (214, 60, 40)
_BROWN: Colour = (58, 36, 26)


def _plain_face(_: Plumage) -> list[Shape]:
    return []


def _ringed_face(_: Plumage) -> list[Shape]:
    return [Shape(disc(EYE, 0.074, 0.072), _WHITE)]


def _masked_face(_: Plumage) -> list[Shape]:
    return [Shape(closed_curve(path("0.56,-0.27 0.42,-0.345 0.26,-0.32 0.16,-0.25 0.28,-0.235 0.44,-0.225")), _BLACK)]


def _browed_face(plumage: Plumage) -> list[Shape]:
    line = stroke(path("0.56,-0.275 0.40,-0.285 0.22,-0.24"), 0.05, 0.03)
    brow = stroke(path("0.54,-0.315 0.42,-0.372 0.28,-0.35 0.17,-0.275"), 0.05, 0.03)
    return [Shape(line, darker(plumage.back, 0.6)), Shape(brow, _WHITE)]


def _cheeked_face(plumage: Plumage) -> list[Shape]:
    cheek = closed_curve(path("0.46,-0.235 0.36,-0.245 0.25,-0.22 0.24,-0.15 0.33,-0.12 0.43,-0.16"))
    return [Shape(cheek, lighter(plumage.accent, 0.1))]


def _hooded_face(plumage: Plumage) -> list[Shape]:
    hood = closed_curve(path("0.62,-0.30 0.50,-0.50 0.26,-0.54 0.06,-0.36 0.16,-0.16 0.36,-0.09 0.58,-0.12"))
    return [Shape(hood, darker(plumage.wing, 0.55))]


def _spectacled_face(plumage: Plumage) -> list[Shape]:
    patch = closed_curve(path("0.58,-0.30 0.48,-0.40 0.34,-0.41 0.25,-0.31 0.30,-0.20 0.44,-0.17 0.57,-0.20"))
    return [Shape(patch, _WHITE), Shape(disc(EYE, 0.095, 0.075), lighter(plumage.accent, 0.1))]


_FACES = {
    "plain": _plain_face,
    "ringed": _ringed_face,
    "masked": _masked_face,
    "browed": _browed_face,
    "cheeked": _cheeked_face,
    "hooded": _hooded_face,
    "spectacled": _spectacled_face,
}


@cache
def draw_face(form: str, plumage: Plumage) -> tuple[Shape, ...]:
    """The pattern of that name, without the eye; the body clips what reaches beyond it."""
    return tuple(_FACES[form](plumage))


@cache
def draw_eye(face: str) -> tuple[Shape, ...]:
    """The eye, with a highlight; red where the face around it is black."""
    x, y = EYE
    return (
        Shape(disc(EYE, 0.050, 0.050), (18, 16, 20), "eye"),
        Shape(disc(EYE, 0.042, 0.042, 16), _RED if face in ("masked", "hooded") else _BROWN, "eye"),
        Shape(disc(EYE, 0.028, 0.028, 12), (8, 8, 10), "eye"),
        Shape(disc((x + 0.017, y - 0.018), 0.015, 0.015, 8), (255, 255, 255), "eye"),
    )
