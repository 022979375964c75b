"""The seven beaks. All start at the front of the head, around (0.5, -0.25)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from protokern.data.birds.curves import closed_curve, disc, path, stroke
from protokern.data.birds.shapes import Shape, darker, lighter
from protokern.data.birds.species import Colour

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
