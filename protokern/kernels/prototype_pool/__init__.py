"""Nearest-patch distance and similarity of every prototype in one pass."""

from __future__ import annotations

from ..min_distance.pool import PrototypePool, prototype_pool

__all__ = ["PrototypePool", "prototype_pool"]
