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
        own_class_count: (P,) int64, how many of the k nearest images are of the prototype's classes.
    """

    kept: Tensor
    pruned: Tensor
    spared: Tensor
    own_class_count: Tensor


def prune_prototypes(model: PrototypeModel, loader: Loader, k: int = 6, threshold: int = 3) -> PruneResult:
    """Drop every prototype with fewer than `threshold` images of its own classes among its k nearest images.

    One pass over the loader. Kept prototypes, their classes and their weights stay as they are, so each contributes as
    before. Other than in the original no class loses its last prototype: if all of a class are below the threshold, the
    one with the most own-class images stays (on a tie the one with the nearest patch, then the first). A prototype that
    no class uses goes, whatever the threshold.

    Args:
        model: changed in place; parameters are replaced, so make optimizers anew.
        loader: yields (images, labels) of the push set in order.
        k: nearest images per prototype, one patch each, >= 1.
        threshold: of them, in 0 .. k.

    Raises:
        ValueError: threshold is out of range, the model still chooses which prototypes its classes use, or as
            `find_nearest_patches`.

    Source: Chen et al. 2019 (ProtoPNet), supplement, section S8; released `prune.py`.
    """
    _check_prune(model, k, threshold)
    return apply_prune(model, find_nearest_patches(model, loader, k), threshold)


def apply_prune(model: PrototypeModel, nearest: NearestPatches, threshold: int = 3) -> PruneResult:
    """The pruning from what a search found, for instance in several parts that were merged.

    Args:
        model: changed in place, as in `prune_prototypes`; with the prototypes that the search looked for.
        nearest: (P, k), found among images of all classes.
        threshold: in 0 .. k.

    Raises:
        ValueError: threshold is out of range, `nearest` is of other prototypes, or the choices of the model are soft.
    """
    _check_prune(model, nearest.image.shape[1], threshold)
    if len(nearest.image) != model.num_prototypes:
        raise ValueError(
            f"nearest: must be of the model's {model.num_prototypes} prototypes; got {len(nearest.image)}. "
            "Search with this model."
        )
    has_class = model.class_identity.cpu() > 0  # (P, K)
    is_own = has_class.gather(1, nearest.label.clamp(min=0)) & (nearest.label >= 0)  # (P, k)
    own_class_count = is_own.sum(dim=1)  # (P,)
    is_good = (own_class_count >= threshold) & has_class.any(dim=1)
    is_spared = _spared(nearest, own_class_count, has_class, is_good)
    is_kept = is_good | is_spared
    kept, pruned, spared = (mask.nonzero().flatten() for mask in (is_kept, ~is_kept, is_spared))
    if len(pruned):
        model.keep_prototypes(kept)
    return PruneResult(kept=kept, pruned=pruned, spared=spared, own_class_count=own_class_count)


def _check_prune(model: PrototypeModel, k: int, threshold: int) -> None:
    if not 0 <= threshold <= k:
        raise ValueError(f"threshold: must be in 0 .. k = {k}; got {threshold}. The original uses k=6, threshold=3.")
    if not model.is_hard:
        raise ValueError(
            "model: must have made its choices final before pruning; they are soft. Call model.harden() first."
        )


def _spared(nearest: NearestPatches, own_class_count: Tensor, has_class: Tensor, is_good: Tensor) -> Tensor:
    """Whether a prototype is the best of a class without a good one, (P,) bool.

    The best has most own-class images, then the nearest patch, then the lowest index.
    """
    count = len(has_class)
    by_distance = nearest.distance[:, 0].argsort(stable=True)
    order = by_distance[own_class_count[by_distance].argsort(stable=True, descending=True)]
    rank = torch.empty(count, dtype=torch.int64)
    rank[order] = torch.arange(count)
    best = torch.where(has_class, rank[:, None], count).argmin(dim=0)  # (K,)
    is_poor = has_class.any(dim=0) & ~(has_class & is_good[:, None]).any(dim=0)  # (K,)
    is_spared = torch.zeros(count, dtype=torch.bool)
    is_spared[best[is_poor]] = True
    return is_spared
