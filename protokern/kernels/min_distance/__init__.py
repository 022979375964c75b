"""Distance from every prototype to its nearest patch, and with it the similarity."""

from __future__ import annotations

from .op import MinDistance, min_distance
from .pool import PrototypePool, prototype_pool

__all__ = ["MinDistance", "PrototypePool", "min_distance", "prototype_pool"]
