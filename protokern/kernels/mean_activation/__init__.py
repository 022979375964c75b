"""Mean similarity of every prototype over all patches."""

from __future__ import annotations

from .op import mean_activation

__all__ = ["mean_activation"]
