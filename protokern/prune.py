"""Pruning: prototypes whose nearest patches are mostly of other classes are dropped, or those that somebody names."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class PrunedByNumber:
    """What was dropped by number; CPU tensors. Indices are those from before, ascending.

    Attributes:
        kept: (P',) int64; prototype `kept[i]` is prototype i now.
        pruned: (P - P',) int64.
    """

    kept: Tensor
    pruned: Tensor


def prune_by_number(
    model: PrototypeModel,
    *,
    drop: Sequence[int] | None = None,
    keep: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
) -> PrunedByNumber:
    """Drop the prototypes that somebody names, for instance those that lie on the background.

    Kept prototypes, their classes and their weights stay as they are, so each contributes as before; the order stays,
    and numbers begin at 0 again.

    Args:
        model: changed in place; parameters are replaced, so make optimizers anew.
        drop: numbers of the prototypes to drop, from 0 on, as the report and prototypes.json have them.
        keep: numbers of those to keep, in place of `drop`.
        classes: names of the classes, for the message.

    Raises:
        ValueError: both or neither are given, a number is unknown or is there twice, a class would lose its last
            prototype, or the choices of the model are soft. The model is then as it was.
    """
    result = choose_by_number(model, drop=drop, keep=keep, classes=classes)
    if len(result.pruned):
        model.keep_prototypes(result.kept)
    return result


def choose_by_number(
    model: PrototypeModel,
    *,
    drop: Sequence[int] | None = None,
    keep: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
) -> PrunedByNumber:
    """What `prune_by_number` would do, with the same arguments and errors; the model is not changed."""
    if (drop is None) == (keep is None):
        raise ValueError(f"drop, keep: must be one of the two; got {'neither' if drop is None else 'both'}.")
    name, numbers = ("keep", list(keep)) if keep is not None else ("drop", list(drop or ()))
    count = model.num_prototypes
    unknown = [number for number in numbers if not 0 <= number < count]
    if unknown:
        raise ValueError(
            f"{name}: must be prototypes of 0 .. {count - 1}; got {unknown[0]}. The report and prototypes.json have "
            "the numbers."
        )
    twice = [number for place, number in enumerate(numbers) if number in numbers[:place]]
    if twice:
        raise ValueError(f"{name}: must name each prototype once; got {twice[0]} twice. Leave one out.")
    _check_choices(model)
    is_kept = torch.full((count,), keep is None)
    is_kept[torch.tensor(numbers, dtype=torch.int64)] = keep is not None
    has_class = model.class_identity.cpu() > 0  # (P, K)
    is_bare = has_class.any(dim=0) & ~has_class[is_kept].any(dim=0)  # (K,)
    if is_bare.any():
        label = int(is_bare.nonzero()[0])
        own = ", ".join(map(str, has_class[:, label].nonzero().flatten().tolist()))
        which = f"class {label}" if classes is None else f"class {classes[label]!r}"
        raise ValueError(
            f"{name}: must leave every class a prototype; got none for {which}, which has {own}. Keep one of them."
        )
    return PrunedByNumber(kept=is_kept.nonzero().flatten(), pruned=(~is_kept).nonzero().flatten())


def _check_prune(model: PrototypeModel, k: int, threshold: int) -> None:
    if not 0 <= threshold <= k:
        raise ValueError(f"threshold: must be in 0 .. k = {k}; got {threshold}. The original uses k=6, threshold=3.")
    _check_choices(model)


def _check_choices(model: PrototypeModel) -> None:
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
