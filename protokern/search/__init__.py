"""The nearest patches of every prototype in a data set, or in parts of it. Push and prune are built on it."""

from __future__ import annotations

from protokern.search.batches import Excluded, Loader
from protokern.search.result import NearestPatches, merge_nearest
from protokern.search.stream import find_nearest_patches

__all__ = ["Excluded", "Loader", "NearestPatches", "find_nearest_patches", "merge_nearest"]
