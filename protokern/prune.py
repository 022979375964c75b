"""Pruning: removes prototypes that answers do not need, that match other classes, or that are given by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from protokern.duplicates import find_copies, same_vector
from protokern.elimination import Activations, ClassLevels, Elimination, eliminate, need_for, smallest
from protokern.models.base import Given, PrototypeModel
from protokern.push import PushResult
from protokern.search import Loader, NearestPatches, find_nearest_patches


@dataclass(frozen=True)
class PruneResult:
    """What was pruned; CPU tensors. Indices are those from before the pruning, ascending.

    Attributes:
        kept: (P',) int64; prototype `kept[i]` is prototype i now.
        pruned: (P - P',) int64.
        spared: int64, those of `kept` that are below the threshold but the best of their class.
        own_class_count: (P,) int64, how many of the k nearest images are of the prototype's classes.
    """

    kept: Tensor
    pruned: Tensor
    spared: Tensor
    own_class_count: Tensor


def prune_prototypes(
    model: PrototypeModel, loader: Loader, k: int = 6, threshold: int = 3, *, given: Given = "images"
) -> PruneResult:
    """Drop every prototype with fewer than `threshold` images of its own classes among its k nearest images.

    One pass over the loader. Kept prototypes, their classes and their weights stay as they are, so each contributes as
    before. Unlike in the original, no class loses its last prototype: if all of a class are below the threshold, the
    one with the most own-class images stays (on a tie the one with the nearest patch, then the first). A prototype that
    no class uses is removed, whatever the threshold.

    Args:
        model: changed in place; parameters are replaced, so create new optimizers.
        loader: yields (images, labels) of the push set in order.
        k: nearest images per prototype, one patch each, >= 1.
        threshold: of them, in 0 .. k.
        given: what the loader yields instead of images, as in `PrototypeModel.features`.

    Raises:
        ValueError: threshold is out of range, the choices of the model are soft, or as `find_nearest_patches`.

    Source: Chen et al. 2019 (ProtoPNet), supplement, section S8; released `prune.py`.
    """
    _check_prune(model, k, threshold)
    return apply_prune(model, find_nearest_patches(model, loader, k, given=given), threshold)


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
    """Drop the prototypes with the given numbers, for instance those that are on the background.

    Kept prototypes, their classes and their weights stay as they are, so each contributes as before; they keep their
    order and are numbered from 0 again.

    Args:
        model: changed in place; parameters are replaced, so create new optimizers.
        drop: numbers of the prototypes to drop, from 0 on, as the report and prototypes.json have them.
        keep: numbers of those to keep, instead of `drop`.
        classes: names of the classes, for the message.

    Raises:
        ValueError: both or neither are given, a number is unknown or repeated, a class would lose its last prototype,
            or the choices of the model are soft. The model is then unchanged.
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


@dataclass(frozen=True)
class PrunedByNeed:
    """What was pruned because the answers do not need it; CPU tensors. Indices are those from before, ascending.

    Attributes:
        kept: (P',) int64; prototype `kept[i]` is prototype i now.
        copies: int64, those dropped because a kept one is the same.
        not_needed: int64, the others that were dropped.
        weight: (K, P') float64, the weights of the kept ones.
        path: how good the answers were, prototype by prototype, beginning with the copies.
    """

    kept: Tensor
    copies: Tensor
    not_needed: Tensor
    weight: Tensor
    path: Elimination

    @property
    def pruned(self) -> Tensor:
        """(P - P',) int64, all that were dropped."""
        return torch.cat([self.copies, self.not_needed]).sort().values

    @property
    def steps(self) -> int:
        """How many steps of `path` that is."""
        return len(self.copies) + len(self.not_needed)


def prune_by_need(
    model: PrototypeModel,
    val: Activations,
    train: Activations,
    push: PushResult | None = None,
    *,
    accuracy_loss: float = 0.0025,
    loss_ratio: float = 1.05,
    per_class: int = 0,
) -> PrunedByNeed:
    """Drop duplicate prototypes, then those that the answers do not need.

    Of several prototypes of the same classes with the same vector, the same source patch, or source patches that
    overlap by more than half (intersection over union), the most needed one stays; if the vectors are equal it takes
    over the weights of the others. Then prototypes are dropped one by one, as in `eliminate`, down to one per class,
    and the smallest set on this path is kept that still answers the validation images well enough. The weights of a
    class's remaining prototypes are scaled to make up for the dropped ones, see `ClassLevels`, unless the weights are
    not those of the last layer, as in a pool.

    Args:
        model: changed in place; parameters are replaced, so create new optimizers.
        val: its activations on validation images; they decide.
        train: its activations on training images.
        push: the sources of its prototypes; None: unknown, and only equal vectors are copies.
        accuracy_loss: the accuracy on `val` may fall by at most this much, in [0, 1].
        loss_ratio: the mean cross entropy on `val` may rise to at most this many times its first value, >= 1.
        per_class: number of prototypes that each class keeps, or all it has if these are fewer, whatever is lost; 0: as
            few as the limits allow.

    Raises:
        ValueError: the choices of the model are soft, there are no images, or the activations have another number of
            prototypes or are not finite.
    """
    result = choose_by_need(
        model, val, train, push, accuracy_loss=accuracy_loss, loss_ratio=loss_ratio, per_class=per_class
    )
    if result.steps:
        keep_with_weights(model, result.kept, result.weight)
    return result


def choose_by_need(
    model: PrototypeModel,
    val: Activations,
    train: Activations,
    push: PushResult | None = None,
    *,
    accuracy_loss: float = 0.0025,
    loss_ratio: float = 1.05,
    per_class: int = 0,
) -> PrunedByNeed:
    """What `prune_by_need` would do, with the same arguments and errors; the model is not changed."""
    _check_choices(model)
    for name, images in (("val", val), ("train", train)):
        _check_activations(name, images, model.num_prototypes)
    weight = model.prototype_weight.detach().cpu().double()  # (K, P)
    is_own = model.class_identity.cpu().T > 0  # (K, P)
    moves_weights = _weighs_prototypes(model)
    val, train = (Activations(one.values.cpu(), one.labels.cpu()) for one in (val, train))
    vectors = model.prototype_layer.vectors
    need = need_for(weight, is_own, val, train, moves_weights=moves_weights)
    copies: dict[int, int] = {}
    if vectors is not None:  # channels are no copies of each other
        sources = () if push is None else (push.image, push.patch, push.grid)
        copies = find_copies(vectors.detach().cpu(), is_own, need, *sources)
    unused = (~is_own.any(dim=0)).nonzero().flatten().tolist()
    if moves_weights and vectors is not None:
        weight = _merged(weight, vectors.detach().cpu(), copies)
    first = [*copies, *(one for one in unused if one not in copies)]
    path = eliminate(weight, is_own, val, train, first=first, per_class=max(per_class, 1), moves_weights=moves_weights)
    steps = len(path.order) if per_class else smallest(path, len(first), accuracy_loss, loss_ratio)
    levels = ClassLevels(weight, is_own, train.values if moves_weights else None)
    for prototype in path.order[:steps].tolist():
        levels.remove(prototype)
    kept = levels.kept.nonzero().flatten()
    left = torch.where(is_own, weight * levels.scale[:, None], weight)[:, kept]
    return PrunedByNeed(
        kept=kept,
        copies=torch.tensor(sorted(copies), dtype=torch.int64),
        not_needed=path.order[len(copies) : steps].sort().values,
        weight=left,
        path=path,
    )


def keep_with_weights(model: PrototypeModel, kept: Tensor, weight: Tensor) -> None:
    """Drop all prototypes but `kept` (P',) int64, and give those `weight` (K, P') where the last layer can hold it."""
    model.keep_prototypes(kept)
    if _weighs_prototypes(model):
        with torch.no_grad():
            model.prototype_weight.copy_(weight)


def _weighs_prototypes(model: PrototypeModel) -> bool:
    """Whether the weights of the prototypes are those of the last layer itself."""
    return getattr(model.last_layer, "weight", None) is model.prototype_weight


def _merged(weight: Tensor, vectors: Tensor, copies: Mapping[int, int]) -> Tensor:
    """The weights (K, P) after kept prototypes have taken over those of copies with the same vector."""
    merged = weight.clone()
    for copy, stays in copies.items():
        if same_vector(vectors[copy], vectors[stays]):
            merged[:, stays] += merged[:, copy]
            merged[:, copy] = 0
    return merged


def _check_activations(name: str, images: Activations, count: int) -> None:
    values = images.values
    if values.ndim != 2 or values.shape[1] != count or len(values) != len(images.labels):
        raise ValueError(
            f"{name}: must have activations (N, {count}) and labels (N,), as the model has {count} prototypes; got "
            f"{tuple(values.shape)} and {tuple(images.labels.shape)}. Collect them with this model."
        )
    if len(values) == 0 or not values.isfinite().all():
        got = "none" if len(values) == 0 else "NaN or inf"
        raise ValueError(f"{name}: must hold finite activations of at least one image; got {got}. Look at the images.")


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
