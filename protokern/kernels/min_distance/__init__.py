"""Distance from every prototype to its nearest patch."""

from __future__ import annotations

from .op import MinDistance, min_distance

__all__ = ["MinDistance", "min_distance"]
