"""What is known of a prototype: its classes, and the patch that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from protokern.results.places import Box, SufficientFrame


class ClassWeight(NamedTuple):
    """A class that a prototype belongs to: its index, its name, and the prototype's weight for it."""

    class_index: int
    class_name: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeSource:
    """The patch that a prototype is.

    Attributes:
        image: position of the training image in the push set.
        name: of that image.
        patch: (row, column) in the grid of patches.
        activation_box: around the highest twentieth of the heat map, pixels, as in the paper.
        patch_box: around the patch's cell and the part of it that is connected with that; the frame in the pictures.
        receptive_field_box: the pixels that the patch depends on.
        distance: from the prototype before the push to the patch.
        sufficient: the smallest box found whose content alone keeps the similarity; None: nobody has looked yet.
    """

    image: int
    name: str
    patch: tuple[int, int]
    activation_box: Box
    patch_box: Box
    receptive_field_box: Box
    distance: float
    sufficient: SufficientFrame | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeRecord:
    """A prototype: its place in the model, its classes with its weight for each, and its patch if it is one."""

    index: int
    classes: tuple[ClassWeight, ...]
    source: PrototypeSource | None
