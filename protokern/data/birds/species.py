"""Which species there are: six local parts with seven forms each, combined by a code, and eight plumages.

A species is a polynomial a + b x + c x^2 over the integers modulo 7; its form of part number x is the polynomial's
value at x (a Reed-Solomon code). Two different polynomials agree in at most two places, so any two species differ in
at least four of the six parts, and the first seven species differ in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

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
