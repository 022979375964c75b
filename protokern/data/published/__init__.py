"""The layouts in which data sets with annotations are published, recognised by their own files."""

from __future__ import annotations

from pathlib import Path

from protokern.data.published import cars, cub, pets
from protokern.data.published.layout import Listing, PublishedLayout

__all__ = ["LAYOUTS", "Listing", "PublishedLayout", "find_layout"]

LAYOUTS = (cub.LAYOUT, pets.LAYOUT, *cars.LAYOUTS)


def find_layout(root: Path) -> PublishedLayout | None:
    """The published layout that a data folder has; None: another one."""
    return next((layout for layout in LAYOUTS if all((root / sign).exists() for sign in layout.signs)), None)
