"""Which species there are: six local parts with seven forms each, combined by a code, and eight plumages.

A species is a polynomial a + b x + c x^2 over the integers modulo 7; its form of part number x is the polynomial's
value at x (a Reed-Solomon code). Two different polynomials agree in at most two places, so any two species differ in
at least four of the six parts, and the first seven species differ in all of them.

Classes differ in all of a species, or in one property alone. The second kind tests explanations: if classes differ only
in colour, colour must be the reason. Whichever of colour and beak does not determine the class is random in every
picture, so that a net cannot use it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

Colour = tuple[int, int, int]

BEAKS = ("cone", "needle", "hook", "curved", "spoon", "giant", "dagger")
CRESTS = ("smooth", "pointed", "fan", "curl", "spiky", "plumed", "capped")
TAILS = ("square", "pointed", "forked", "fanned", "banded", "racket", "cocked")
WINGS = ("plain", "barred", "dark-tipped", "spotted", "shouldered", "scaled", "panelled")
BREASTS = ("plain", "spotted", "barred", "bibbed", "collared", "red", "streaked")
FACES = ("plain", "ringed", "masked", "browed", "cheeked", "hooded", "spectacled")
PARTS = ("beak", "crest", "tail", "wing", "breast", "face")

_FORMS = 7
MAX_SPECIES = _FORMS**3


@dataclass(frozen=True, slots=True)
class Plumage:
    """Ground colours of a bird, 8-bit RGB."""

    name: str
    back: Colour
    wing: Colour
    belly: Colour
    accent: Colour


PLUMAGES = (
    Plumage("blue", (66, 122, 196), (42, 82, 150), (236, 222, 176), (250, 196, 52)),
    Plumage("rust", (164, 96, 56), (116, 66, 40), (238, 216, 188), (44, 40, 46)),
    Plumage("green", (98, 156, 66), (58, 108, 50), (220, 226, 140), (216, 52, 48)),
    Plumage("yellow", (236, 194, 56), (128, 108, 48), (252, 236, 156), (46, 44, 44)),
    Plumage("grey", (140, 150, 162), (92, 100, 114), (232, 234, 238), (226, 118, 38)),
    Plumage("red", (200, 58, 46), (132, 40, 40), (238, 176, 146), (62, 48, 62)),
    Plumage("black", (62, 62, 78), (40, 40, 52), (158, 158, 174), (240, 238, 230)),
    Plumage("teal", (48, 156, 150), (32, 104, 114), (226, 240, 222), (176, 66, 160)),
)


@dataclass(frozen=True, slots=True)
class Species:
    """One class: the form of every part, by name, and the plumage; `beak_colour`: all of the beak in one colour."""

    beak: str
    crest: str
    tail: str
    wing: str
    breast: str
    face: str
    plumage: Plumage
    beak_colour: Colour | None = None

    @property
    def name(self) -> str:
        """Unique: three forms fix the polynomial."""
        return f"{self.plumage.name}_{self.crest}-crest_{self.beak}-beak_{self.tail}-tail"


def species_of(number: int) -> Species:
    """Species `number`, in [0, MAX_SPECIES); the same on every machine and for every seed."""
    a, b, c = number % _FORMS, number // _FORMS % _FORMS, number // _FORMS**2
    beak, crest, tail, wing, breast, face = ((a + b * x + c * x * x) % _FORMS for x in range(len(PARTS)))
    # Plumages repeat, so that colour alone does not tell the species.
    plumage = PLUMAGES[(3 * number + number // len(PLUMAGES)) % len(PLUMAGES)]
    return Species(BEAKS[beak], CRESTS[crest], TAILS[tail], WINGS[wing], BREASTS[breast], FACES[face], plumage)


# Degrees of the colour circle; the first classes are the farthest apart.
_HUES = (0, 180, 90, 270, 45, 225, 135, 315)
# Lightness of back, wing, belly and accent, and how colourful they can be at every hue.
_LUMA = (120, 85, 165, 140)
_CHROMA = (64, 46, 26, 50)
_BEAK_COLOUR: Colour = (42, 40, 46)

# By name: how many classes there can be.
DIFFERENCES = {"species": MAX_SPECIES, "colour": len(_HUES), "beak": len(BEAKS)}


def variant(differ_in: str, number: int) -> Species:
    """Class `number` of the birds whose classes differ in what is named.

    "species": as `species_of`. "colour": one species in plumages that differ in hue alone, with the same grey values.
    "beak": one species with beaks of one colour that differ in shape alone.

    Args:
        differ_in: one of `DIFFERENCES`.
        number: from 0 to `DIFFERENCES[differ_in]` - 1.
    """
    if differ_in == "species":
        return species_of(number)
    first = replace(species_of(0), plumage=_plumage(_HUES[0]), beak_colour=_BEAK_COLOUR)
    if differ_in == "colour":
        return replace(first, plumage=_plumage(_HUES[number]))
    return replace(first, beak=BEAKS[number])


def with_chance(species: Species, differ_in: str, rng: np.random.Generator) -> Species:
    """One bird of a class: the property that does not determine the class is drawn at random."""
    if differ_in == "species":
        return species
    if differ_in == "colour":
        return replace(species, beak=BEAKS[rng.integers(len(BEAKS))])
    return replace(species, plumage=_plumage(_HUES[rng.integers(len(_HUES))]))


def _plumage(degrees: int) -> Plumage:
    back, wing, belly, accent = (_colour(luma, chroma, degrees) for luma, chroma in zip(_LUMA, _CHROMA, strict=True))
    return Plumage(f"hue-{degrees:03}", back, wing, belly, accent)


def _colour(luma: float, chroma: float, degrees: float) -> Colour:
    """A colour by the standard of digital television (BT.601): its grey value is `luma`, whatever the angle."""
    blue = chroma * math.cos(math.radians(degrees))
    red = chroma * math.sin(math.radians(degrees))
    r, g, b = luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue
    return round(r), round(g), round(b)
