"""Heat maps of one image by several methods, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from protokern.results.places import Picture, SeenPicture


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMapRow:
    """The maps of one prototype.

    Attributes:
        prototype: its index.
        points: what it gives to the answer.
        seen: the image with the prototype's frame.
        heats: the image under each map, in the order of the methods.
    """

    prototype: int
    points: float
    seen: SeenPicture
    heats: tuple[Picture | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMapComparison:
    """The maps of the first reasons of one answer.

    Attributes:
        name: of the image.
        answer: name of the explained class.
        methods: names of the methods.
        rows: of the prototypes with the most points.
        left_out: methods that could not be used, each with the reason.
    """

    name: str
    answer: str
    methods: tuple[str, ...]
    rows: tuple[HeatMapRow, ...]
    left_out: tuple[tuple[str, str], ...]
