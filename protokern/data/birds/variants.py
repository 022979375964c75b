"""Which property tells the classes apart: all of a species, or one thing alone.

The second kind tests what says why: where only colour tells the classes apart, colour must be the reason. Colour and
beak change places: what does not tell the class is drawn anew for every picture, so that a net cannot hold on to it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from protokern.data.birds.species import BEAKS, MAX_SPECIES, Colour, Plumage, Species, species_of

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
    """One bird of a class: what does not tell the class is drawn."""
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
