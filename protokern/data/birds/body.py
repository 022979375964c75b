"""The body of a bird: its folded wing, its breast with the pale underside, and its tail. Seven forms of each.

The parts are "wing", "breast" and "tail". The breast is painted on the body, which clips it.
A tail hangs from the rump, around (-0.36, 0.08), and points backwards and down.
"""

from __future__ import annotations

from functools import cache

from protokern.data.birds.shapes import (
    Group,
    Point,
    Shape,
    closed_curve,
    darker,
    disc,
    feather,
    lighter,
    mix,
    path,
    stroke,
)
from protokern.data.birds.species import Colour, Plumage

_WING_WHITE: Colour = (248, 246, 238)
_WING_BLACK: Colour = (34, 32, 38)

_WING = closed_curve(
    path(
        "0.27,-0.06 0.20,-0.15 0.04,-0.165 -0.18,-0.09 -0.40,0.02 "
        "-0.64,0.165 -0.47,0.175 -0.24,0.185 -0.02,0.17 0.17,0.10"
    )
)

# The long feathers of the hand and the arm, from the lowest one up: (start, end).
_FLIGHT = (
    ((-0.02, 0.12), (-0.64, 0.165)),
    ((-0.04, 0.10), (-0.58, 0.14)),
    ((-0.02, 0.085), (-0.52, 0.105)),
    ((0.00, 0.06), (-0.46, 0.07)),
    ((0.02, 0.04), (-0.39, 0.03)),
    ((0.05, 0.01), (-0.31, -0.01)),
    ((0.08, -0.02), (-0.22, -0.05)),
)
# Rows of small feathers over their roots: centres of the scales.
_COVERTS = (
    path("-0.14,0.115 -0.12,0.06 -0.10,0.0 -0.06,-0.06 -0.02,-0.11"),
    path("-0.02,0.125 0.0,0.065 0.02,0.0 0.05,-0.06 0.09,-0.115"),
    path("0.09,0.10 0.11,0.04 0.14,-0.02 0.17,-0.08"),
)


@cache
def draw_wing(form: str, plumage: Plumage) -> Group:
    """The folded wing of that pattern."""
    colour = plumage.wing
    inside = _flight_feathers(colour, tips=_WING_BLACK if form == "dark-tipped" else None)
    inside += _coverts(colour, edge=lighter(plumage.belly, 0.2) if form == "scaled" else darker(colour, 0.16))
    match form:
        case "barred":
            inside += _wing_bars()
        case "spotted":
            inside += _wing_spots()
        case "shouldered":
            inside += _wing_shoulder(plumage.accent)
        case "panelled":
            inside += _wing_panel()
    return Group(Shape(_WING, darker(colour, 0.35), "wing"), tuple(inside))


def _flight_feathers(colour: Colour, tips: Colour | None) -> list[Shape]:
    shapes = []
    for number, (start, end) in enumerate(_FLIGHT):
        shade = darker(colour, 0.26 - 0.03 * number)
        shapes.append(Shape(feather(start, end, 0.085, bend=-0.01), darker(colour, 0.5)))
        shapes.append(Shape(feather(start, (end[0], end[1] - 0.008), 0.07, bend=-0.01), shade))
    if tips is not None:
        tip = closed_curve(path("-0.70,0.22 -0.70,0.10 -0.36,-0.04 -0.24,-0.02 -0.27,0.20"))
        shapes.append(Shape(tip, tips))
        shafts = ("-0.28,0.12 -0.60,0.16", "-0.28,0.07 -0.52,0.11", "-0.28,0.03 -0.44,0.06")
        shapes += [Shape(stroke(path(shaft), 0.012, 0.008, 2), lighter(tips, 0.28)) for shaft in shafts]
    return shapes


def _coverts(colour: Colour, edge: Colour) -> list[Shape]:
    ground = closed_curve(path("0.27,-0.05 0.18,-0.16 0,-0.165 -0.11,-0.08 -0.14,0.10 0.02,0.17 0.18,0.10"))
    shapes = [Shape(ground, colour)]
    for row, centres in enumerate(_COVERTS):
        for x, y in centres:
            shapes.append(Shape(disc((x, y), 0.062, 0.046, 12), edge))
            shapes.append(Shape(disc((x + 0.014, y - 0.002), 0.058, 0.039, 12), lighter(colour, 0.05 * row)))
    return shapes


def _wing_bars() -> list[Shape]:
    first = stroke(path("0.03,-0.13 -0.075,-0.04 -0.115,0.06 -0.09,0.17"), 0.05, 0.05)
    second = stroke(path("0.18,-0.13 0.075,-0.04 0.045,0.06 0.07,0.16"), 0.05, 0.05)
    return [Shape(first, _WING_WHITE), Shape(second, _WING_WHITE)]


def _wing_spots() -> list[Shape]:
    centres = path(
        "0.16,-0.07 0.13,0.03 0.06,-0.11 0.03,0 0.02,0.11 -0.06,-0.06 -0.09,0.05 "
        "-0.12,0.13 -0.19,-0.03 -0.23,0.06 -0.27,0.135 -0.34,0.045 -0.39,0.12"
    )
    return [Shape(disc(centre, 0.028, 0.026, 10), _WING_WHITE) for centre in centres]


def _wing_shoulder(accent: Colour) -> list[Shape]:
    patch = closed_curve(path("0.30,-0.05 0.21,-0.17 0.06,-0.17 0.02,-0.08 0.08,0.02 0.20,0.06"))
    rim = closed_curve(
        path("0.29,0.03 0.20,0.07 0.07,0.035 0,-0.08 0.04,-0.17 -0.02,-0.17 -0.055,-0.07 0.03,0.08 0.19,0.12")
    )
    return [Shape(rim, _WING_WHITE), Shape(patch, accent)]


def _wing_panel() -> list[Shape]:
    panel = closed_curve(path("0.0,0.0 -0.12,-0.065 -0.30,-0.02 -0.42,0.07 -0.26,0.115 -0.06,0.10"))
    lines = (((-0.03, 0.03), (-0.34, 0.045)), ((-0.05, 0.065), (-0.30, 0.085)), ((-0.06, -0.005), (-0.28, 0.0)))
    return [Shape(panel, _WING_WHITE), *(Shape(stroke(line, 0.012, 0.01, 2), (150, 150, 150)) for line in lines)]


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


TAIL_ROOT: Point = (-0.30, 0.07)


def _tail_feathers(tips: tuple[Point, ...], width: float, colour: Colour, blunt: float) -> list[Shape]:
    """One feather to each tip, in two shades, so that neighbours can be told apart."""
    shapes = []
    for number, tip in enumerate(tips):
        shade = colour if number % 2 else darker(colour, 0.2)
        shapes.append(Shape(feather(TAIL_ROOT, tip, width, blunt=blunt), shade, "tail"))
    return shapes


def _square_tail(plumage: Plumage) -> list[Shape]:
    colour = _tail_colour(plumage)
    tips = path("-0.70,0.31 -0.73,0.27 -0.755,0.225 -0.77,0.18")
    return _tail_feathers(tips, 0.12, colour, 1.0)


def _pointed_tail(plumage: Plumage) -> list[Shape]:
    colour = _tail_colour(plumage)
    tips = path("-0.72,0.30 -0.82,0.31 -0.78,0.22 -0.95,0.33")
    return _tail_feathers(tips, 0.12, colour, 0.1)


def _forked_tail(plumage: Plumage) -> list[Shape]:
    colour = _tail_colour(plumage)
    tips = path("-0.70,0.24 -0.86,0.47 -0.72,0.18 -0.98,0.10")
    return _tail_feathers(tips, 0.115, colour, 0.15)


def _fanned_tail(plumage: Plumage) -> list[Shape]:
    colour = _tail_colour(plumage)
    tips = path("-0.58,0.53 -0.69,0.45 -0.78,0.35 -0.83,0.24 -0.84,0.12 -0.81,0.0 -0.74,-0.10")
    shapes = _tail_feathers(tips, 0.17, colour, 1.0)
    for x, y in tips:
        end = (TAIL_ROOT[0] + (x - TAIL_ROOT[0]) * 0.93, TAIL_ROOT[1] + (y - TAIL_ROOT[1]) * 0.93)
        shapes.append(Shape(disc(end, 0.048, 0.048, 12), lighter(plumage.belly, 0.3), "tail"))
    return shapes


def _banded_tail(plumage: Plumage) -> list[Shape]:
    colour = _tail_colour(plumage)
    tips = path("-0.81,0.35 -0.86,0.30 -0.88,0.25 -0.88,0.19")
    shapes = _tail_feathers(tips, 0.14, lighter(colour, 0.15), 1.0)
    for along in (0.45, 0.68, 0.92):
        x, y = TAIL_ROOT[0] - 0.58 * along, TAIL_ROOT[1] + 0.20 * along
        spread = 0.055 + 0.075 * along
        band = stroke(((x - 0.01, y - spread), (x - 0.03, y), (x + 0.05, y + spread)), 0.07, 0.07)
        shapes.append(Shape(band, (30, 28, 34) if along < 0.9 else (246, 244, 238), "tail"))
    return shapes


def _racket_tail(plumage: Plumage) -> list[Shape]:
    colour = _tail_colour(plumage)
    shapes = _tail_feathers(((-0.64, 0.27), (-0.67, 0.20)), 0.13, colour, 0.6)
    for line, end in (
        (((-0.56, 0.22), (-0.72, 0.34), (-0.81, 0.47)), (-0.83, 0.51)),
        (((-0.58, 0.19), (-0.77, 0.25), (-0.90, 0.32)), (-0.93, 0.34)),
    ):
        shapes.append(Shape(stroke(line, 0.035, 0.024), darker(colour, 0.35), "tail"))
        shapes.append(Shape(disc(end, 0.085, 0.075, 16), plumage.accent, "tail"))
        shapes.append(Shape(disc(end, 0.04, 0.034, 12), darker(colour, 0.6), "tail"))
    return shapes


def _cocked_tail(plumage: Plumage) -> list[Shape]:
    colour = _tail_colour(plumage)
    tips = path("-0.54,-0.42 -0.60,-0.38 -0.66,-0.32 -0.70,-0.26")
    shapes = _tail_feathers(tips, 0.125, colour, 0.8)
    for along in (0.5, 0.7, 0.88):
        x, y = TAIL_ROOT[0] - 0.34 * along, TAIL_ROOT[1] - 0.44 * along
        spread = 0.04 + 0.06 * along
        bar = stroke(((x - spread, y + spread * 0.8), (x + spread, y - spread * 0.8)), 0.022, 0.022)
        shapes.append(Shape(bar, darker(colour, 0.6), "tail"))
    return shapes


_TAILS = {
    "square": _square_tail,
    "pointed": _pointed_tail,
    "forked": _forked_tail,
    "fanned": _fanned_tail,
    "banded": _banded_tail,
    "racket": _racket_tail,
    "cocked": _cocked_tail,
}


@cache
def draw_tail(form: str, plumage: Plumage) -> tuple[Shape, ...]:
    """The tail of that name, back to front."""
    return tuple(_TAILS[form](plumage))


def _tail_colour(plumage: Plumage) -> Colour:
    red, green, blue = ((2 * a + b) // 3 for a, b in zip(plumage.wing, plumage.back, strict=True))
    return red, green, blue
