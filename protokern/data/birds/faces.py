"""The eye and the seven patterns around it, painted on the head."""

from __future__ import annotations

from functools import cache

from protokern.data.birds.curves import closed_curve, disc, path, stroke
from protokern.data.birds.shapes import Shape, darker, lighter
from protokern.data.birds.species import Colour, Plumage

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
