"""Distance from prototypes to every patch, for heat maps."""

from __future__ import annotations

from .op import distance_map

__all__ = ["distance_map"]
