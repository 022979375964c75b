"""Pruning: prototypes whose nearest patches are mostly of other classes are dropped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from protokern.models.base import PrototypeModel
from protokern.search import Loader, NearestPatches, find_nearest_patches


@dataclass(frozen=True)
class PruneResult:
    """What was pruned; CPU tensors. Indices are those from before the pruning, ascending.

    Attributes:
        kept: (P',) int64; prototype `kept[i]` is prototype i now.
        pruned: (P - P',) int64.
        spared: int64, those of `kept` that are below the threshold but the best that their class had.
        own_class_count: (P,) int64, how many of the k nearest images are of the prototype's class.
    """

    kept: Tensor
    pruned: Tensor
    spared: Tensor
    own_class_count: Tensor


def prune_prototypes(model: PrototypeModel, loader: Loader, k: int = 6, threshold: int = 3) -> PruneResult:
    """Drop every prototype with fewer than `threshold` images of its own class among its k nearest images.

    One pass over the loader. Kept prototypes, their classes and their weights stay as they are, so each contributes as
    before. Other than in the original no class loses its last prototype: if all of a class are below the threshold, the
    one with the most own-class images stays (on a tie the one with the nearest patch, then the first).

    Args:
        model: changed in place; parameters are replaced, so make optimizers anew.
        loader: yields (images, labels) of the push set in order.
        k: nearest images per prototype, one patch each, >= 1.
        threshold: of them, in 0 .. k.

    Raises:
        ValueError: threshold is out of range, or as `find_nearest_patches`.

    Source: Chen et al. 2019 (ProtoPNet), supplement, section S8; released `prune.py`.
    """
    if not 0 <= threshold <= k:
        raise ValueError(f"threshold: must be in 0 .. k = {k}; got {threshold}. The original uses k=6, threshold=3.")
    nearest = find_nearest_patches(model, loader, k)
    prototype_class = model.prototype_class.cpu()
    own_class_count = (nearest.label == prototype_class[:, None]).sum(dim=1)  # (P,)
    is_good = own_class_count >= threshold
    is_spared = _best_of_class(nearest, own_class_count, prototype_class) & ~_class_has(is_good, prototype_class)
    is_kept = is_good | is_spared
    kept, pruned, spared = (mask.nonzero().flatten() for mask in (is_kept, ~is_kept, is_spared))
    if len(pruned):
        model.keep_prototypes(kept)
    return PruneResult(kept=kept, pruned=pruned, spared=spared, own_class_count=own_class_count)


def _best_of_class(nearest: NearestPatches, own_class_count: Tensor, prototype_class: Tensor) -> Tensor:
    """Whether a prototype is the best of its class: most own-class images, then nearest, then first. (P,) bool."""
    count = len(prototype_class)
    by_distance = nearest.distance[:, 0].argsort(stable=True)
    order = by_distance[own_class_count[by_distance].argsort(stable=True, descending=True)]
    rank = torch.empty(count, dtype=torch.int64)
    rank[order] = torch.arange(count)
    best_rank = torch.full((int(prototype_class.max()) + 1,), count)
    best_rank = best_rank.scatter_reduce(0, prototype_class, rank, "amin")
    return rank == best_rank[prototype_class]


def _class_has(is_member: Tensor, prototype_class: Tensor) -> Tensor:
    """Whether the class of each prototype has any member, (P,) bool."""
    members = torch.zeros(int(prototype_class.max()) + 1, dtype=torch.int64)
    return members.index_add(0, prototype_class, is_member.long())[prototype_class] > 0
