"""Patches of an image beside patches of other images that are near to them, without prototypes."""

from __future__ import annotations

from dataclasses import dataclass

from protokern.results.places import SeenPicture


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchMatch:
    """A patch of an image, and the nearest one of the training images.

    Attributes:
        here: the image, with the patch.
        there: the training image, with its patch.
        name: of the training image.
        distance: of the two patches.
    """

    here: SeenPicture
    there: SeenPicture
    name: str
    distance: float
