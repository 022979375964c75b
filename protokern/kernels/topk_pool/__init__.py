"""Distances to the k nearest patches of every prototype, and their mean similarity."""

from __future__ import annotations

from .op import TopKPool, topk_pool

__all__ = ["TopKPool", "topk_pool"]
