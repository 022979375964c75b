"""Distance from every prototype to given patches."""

from __future__ import annotations

from .op import distance_at

__all__ = ["distance_at"]
