"""The seven tails. All hang from the rump around (-0.36, 0.08) and point backwards and down. The part is "tail"."""

from __future__ import annotations

from functools import cache

from protokern.data.birds.curves import Point, disc, feather, path, stroke
from protokern.data.birds.shapes import Shape, darker, lighter
from protokern.data.birds.species import Colour, Plumage

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
