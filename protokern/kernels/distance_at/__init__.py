"""Distance from every prototype to one given patch per image."""

from __future__ import annotations

from .op import distance_at

__all__ = ["distance_at"]
