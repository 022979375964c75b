"""The pale underside and the seven breast patterns, painted on the body. The part is "breast"."""

from __future__ import annotations

from functools import cache

from protokern.data.birds.curves import closed_curve, disc, path, stroke
from protokern.data.birds.shapes import Shape, darker, mix
from protokern.data.birds.species import Colour, Plumage

_BREAST_WHITE: Colour = (250, 248, 242)
_BREAST_BLACK: Colour = (30, 28, 36)
_ROBIN: Colour = (228, 84, 36)

_BREAST = closed_curve(path("0.52,-0.15 0.36,-0.12 0.26,0 0.20,0.16 0.30,0.30 0.50,0.14"))


def _belly(plumage: Plumage) -> list[Shape]:
    border = closed_curve(path("0.54,-0.20 0.34,-0.15 0.20,0.03 -0.06,0.13 -0.36,0.10 -0.36,0.40 0.30,0.42 0.58,0.10"))
    inner = closed_curve(path("0.54,-0.18 0.36,-0.125 0.23,0.06 -0.05,0.165 -0.34,0.15 -0.34,0.40 0.30,0.42 0.58,0.10"))
    return [
        Shape(border, mix(plumage.back, plumage.belly, 0.5)),
        Shape(inner, plumage.belly),
        Shape(_BREAST, plumage.belly, "breast"),
    ]


def _mark_colour(plumage: Plumage) -> Colour:
    return darker(mix(plumage.belly, plumage.wing, 0.55), 0.45)


def _plain_breast(_: Plumage) -> list[Shape]:
    return []


def _spotted_breast(plumage: Plumage) -> list[Shape]:
    centres = path(
        "0.44,-0.09 0.36,-0.06 0.46,-0.01 0.38,0.02 0.30,0.05 0.43,0.07 "
        "0.34,0.10 0.26,0.13 0.38,0.15 0.30,0.18 0.21,0.20 0.24,0.25"
    )
    return [Shape(disc(centre, 0.026, 0.026, 10), _mark_colour(plumage), "breast") for centre in centres]


def _barred_breast(plumage: Plumage) -> list[Shape]:
    lines = (
        "0.28,-0.06 0.40,-0.03 0.54,-0.06",
        "0.25,0.01 0.38,0.045 0.54,0.01",
        "0.21,0.08 0.34,0.12 0.52,0.08",
        "0.17,0.15 0.30,0.19 0.48,0.15",
        "0.12,0.22 0.26,0.255 0.42,0.22",
    )
    return [Shape(stroke(path(line), 0.034, 0.034), _mark_colour(plumage), "breast") for line in lines]


def _bibbed_breast(_: Plumage) -> list[Shape]:
    bib = closed_curve(path("0.56,-0.21 0.46,-0.21 0.38,-0.14 0.36,-0.02 0.41,0.06 0.52,0.02"))
    return [Shape(bib, _BREAST_BLACK, "breast")]


def _collared_breast(_: Plumage) -> list[Shape]:
    pale = stroke(path("0.20,-0.24 0.32,-0.135 0.44,-0.095 0.56,-0.12"), 0.06, 0.085)
    collar = stroke(path("0.20,-0.16 0.30,-0.05 0.42,-0.01 0.56,-0.04"), 0.075, 0.095)
    return [Shape(pale, _BREAST_WHITE, "breast"), Shape(collar, _BREAST_BLACK, "breast")]


def _red_breast(_: Plumage) -> list[Shape]:
    patch = closed_curve(path("0.56,-0.20 0.42,-0.16 0.29,-0.04 0.21,0.12 0.27,0.21 0.42,0.18 0.56,0.02"))
    return [Shape(patch, _ROBIN, "breast")]


def _streaked_breast(plumage: Plumage) -> list[Shape]:
    lines = (
        "0.46,-0.13 0.47,-0.03",
        "0.39,-0.11 0.39,0",
        "0.33,-0.06 0.31,0.05",
        "0.43,0 0.41,0.11",
        "0.35,0.05 0.32,0.16",
        "0.27,0.08 0.23,0.20",
        "0.37,0.13 0.32,0.23",
        "0.28,0.18 0.23,0.27",
    )
    return [Shape(stroke(path(line), 0.034, 0.012, 2), _mark_colour(plumage), "breast") for line in lines]


_BREASTS = {
    "plain": _plain_breast,
    "spotted": _spotted_breast,
    "barred": _barred_breast,
    "bibbed": _bibbed_breast,
    "collared": _collared_breast,
    "red": _red_breast,
    "streaked": _streaked_breast,
}


@cache
def draw_breast(form: str, plumage: Plumage) -> tuple[Shape, ...]:
    """The underside with the pattern of that name; shapes reach beyond the body, which clips them."""
    return tuple(_belly(plumage) + _BREASTS[form](plumage))
