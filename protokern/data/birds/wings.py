"""The folded wing with its feathers and the seven wing patterns. The part is "wing"."""

from __future__ import annotations

from functools import cache

from protokern.data.birds.curves import closed_curve, disc, feather, path, stroke
from protokern.data.birds.shapes import Group, Shape, darker, lighter
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
