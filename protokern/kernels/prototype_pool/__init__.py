"""Nearest-patch distance and similarity of every prototype in one pass."""

from __future__ import annotations

from .op import PrototypePool, prototype_pool

__all__ = ["PrototypePool", "prototype_pool"]
