"""Starts prototypes at patches of training images of their classes that together cover what a class looks like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.errors import TrainingError
from protokern.kernels.metric import METRIC_TABLE
from protokern.models.base import PrototypeModel
from protokern.nn import PrototypeLayer
from protokern.push import PushResult
from protokern.ranks import Ranks
from protokern.search import Excluded

_MOST_OF_CLASS, _MOST_IMAGES = 300, 20_000  # more hardly change the middle of a cluster, and fill the memory
_ROUNDS = 10  # k-means has settled by then


def choose_images(labels: Sequence[int], num_classes: int, seed: int) -> list[int]:
    """Images whose patches prototypes may start at, ascending; the same number for every class, if it has them.

    Args:
        labels: of the training images.
        num_classes: K.
        seed: chooses among the images of a class.
    """
    most = max(1, min(_MOST_OF_CLASS, _MOST_IMAGES // num_classes))
    every_label = np.asarray(labels)
    chosen: list[int] = []
    for label in range(num_classes):
        own = np.flatnonzero(every_label == label)
        chosen += np.random.default_rng([seed, label]).permutation(own)[:most].tolist()
    return sorted(chosen)


def find_starts(
    model: PrototypeModel,
    features: Iterable[tuple[Tensor, Tensor]],
    first_image: int,
    chosen: Sequence[int],
    seed: int,
    ranks: Ranks,
    classes: Sequence[str] | None = None,
    excluded: Excluded | None = None,
) -> PushResult:
    """A patch for every prototype: in each class the middles of as many clusters of patches as it has prototypes.

    The clusters are those of k-means over the patches of the chosen images, with the metric of the layer and its
    weights of the patches. No two prototypes of a class get the same patch, or overlapping patches, as long as the
    class has others.

    Args:
        model: every prototype has one class.
        features: maps (B, D, H, W) with labels, of this rank's part of the training images, in order.
        first_image: of that part.
        chosen: images whose patches count, ascending.
        seed: seed of the draw of the first patches.
        ranks: the ranks that share the images; all get the same answer.
        classes: their names, for the message.
        excluded: which patches no prototype may start at, as in `find_nearest_patches`.

    Raises:
        TrainingError: a prototype has no class or several; a class has no image, fewer patches than prototypes, or
            patches that are not finite.

    Source: Arthur and Vassilvitskii 2007, "k-means++", for the first patches.
    """
    layer = _layer_of_own_classes(model)
    image, label, patches, weight, grid = _read_patches(layer, features, first_image, chosen, ranks, excluded)
    count = model.num_prototypes
    sources = torch.full((count, 2), -1)
    if ranks.is_first:
        own_class = model.class_identity.argmax(dim=1).cpu()
        for k in range(model.num_classes):
            prototypes = (own_class == k).nonzero().flatten()
            here = (label == k).nonzero().flatten()
            if not len(prototypes):
                continue
            found = _spread(patches[here], weight[here], grid, layer, len(prototypes), [seed, k])
            if found is None:
                name = f"class {k}" if classes is None else f"class {classes[k]!r}"
                raise TrainingError(
                    f"prototype_start: must find {len(prototypes)} patches of finite features in {name}; its "
                    f"{len(here)} images that were looked at have fewer. Take fewer prototypes, or start at random."
                )
            sources[prototypes, 0] = image[here][found // (grid[0] * grid[1])]
            sources[prototypes, 1] = found % (grid[0] * grid[1])
    ranks.copy_from_first([sources])
    return PushResult(
        image=sources[:, 0],
        patch=sources[:, 1],
        distance=torch.zeros(count),
        label=model.class_identity.argmax(dim=1).cpu(),
        grid=grid,
    )


@torch.no_grad()
def _read_patches(
    layer: PrototypeLayer,
    features: Iterable[tuple[Tensor, Tensor]],
    first_image: int,
    chosen: Sequence[int],
    ranks: Ranks,
    excluded: Excluded | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, int]]:
    """Of the chosen images: image (M,), label (M,), patches (M, N, D h w), weight (M, N); and the grid; on the CPU.

    Only the first rank has them all.
    """
    height, width = layer.prototype_size
    wanted = torch.tensor(sorted(chosen))
    length = layer.prototypes[0].numel()
    images, labels = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    patches, weights = [], []
    grid = (0, 0)
    start = first_image
    for maps, batch_labels in features:
        grid = (maps.shape[2] - height + 1, maps.shape[3] - width + 1)
        numbers = torch.arange(start, start + len(maps))
        here = torch.isin(numbers, wanted).nonzero().flatten()
        some = maps[here.to(maps.device)]
        images.append(numbers[here])
        labels.append(batch_labels.cpu()[here])
        patches.append(F.unfold(some, (height, width)).transpose(1, 2).float().cpu())  # (m, N, D h w)
        found = layer.patch_weight(some)
        weight = torch.ones(len(some), grid[0] * grid[1]) if found is None else found.flatten(1).float().cpu()
        if excluded is not None:
            weight[excluded(some, labels[-1], images[-1]).flatten(1).cpu()] = 0
        weights.append(weight)
        start += len(maps)
    grids = torch.stack(ranks.gather(torch.tensor(grid))).amax(dim=0).tolist()
    grid = (grids[0], grids[1])
    num_patches = grid[0] * grid[1]
    no_patch, no_weight = torch.empty(0, num_patches, length), torch.empty(0, num_patches)
    parts = (torch.cat(images), torch.cat(labels), torch.cat([no_patch, *patches]), torch.cat([no_weight, *weights]))
    gathered = [ranks.gather_to_first(part) for part in parts]
    joined = [torch.cat(part) if part else own[:0] for part, own in zip(gathered, parts, strict=True)]
    return joined[0], joined[1], joined[2], joined[3], grid


def _layer_of_own_classes(model: PrototypeModel) -> PrototypeLayer:
    """The layer whose vectors start.

    Refuse a model whose prototypes have no class of their own; the leaves of a tree have learnt none yet.
    """
    layer = model.prototype_layer
    has_own = not model.chooses and model.reasons == "points"
    is_each_of_one = has_own and bool((model.class_identity.sum(dim=1) == 1).all())
    if not is_each_of_one or not isinstance(layer, PrototypeLayer):
        raise TrainingError(
            'prototype_start: must be "random" for a model whose prototypes have no class of their own; got "patches".'
        )
    return layer


def _spread(
    patches: Tensor, weight: Tensor, grid: tuple[int, int], layer: PrototypeLayer, count: int, seed: Sequence[int]
) -> Tensor | None:
    """`count` patches of one class as flat indices into (M, N), from patches (M, N, K) and weight (M, N).

    None if there are fewer finite patches.
    """
    rows = patches.flatten(0, 1)  # (M N, K)
    is_usable = rows.isfinite().all(dim=1) & (weight.flatten() > 0)
    usable = is_usable.nonzero().flatten()
    if len(usable) < count:
        return None
    rows, mass = rows[usable], weight.flatten()[usable].double()
    is_unit = METRIC_TABLE[layer.metric].is_unit
    if is_unit:
        rows = F.normalize(rows, dim=1)
    centres = _first_centres(rows, mass, count, np.random.default_rng(list(seed)))
    for _ in range(_ROUNDS):
        group = torch.cdist(rows, centres).argmin(dim=1)
        share = F.one_hot(group, count).double() * mass[:, None]  # (M N, count)
        total = share.sum(dim=0)
        moved = (share.T @ rows.double() / total.clamp(min=1e-300)[:, None]).float()
        centres = torch.where(total[:, None] > 0, moved, centres)
        if is_unit:
            centres = F.normalize(centres, dim=1)
    return usable[_middles(rows, mass.float(), centres, usable, grid, layer)]


def _first_centres(rows: Tensor, mass: Tensor, count: int, random: np.random.Generator) -> Tensor:
    """k-means++: each centre is drawn in proportion to mass x squared distance from those before it, (count, K)."""
    chance = mass
    nearest = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    chosen: list[int] = []
    for _ in range(count):
        cumulated = chance.cumsum(dim=0)
        drawn = torch.searchsorted(cumulated, random.random() * float(cumulated[-1]), right=True)
        chosen.append(min(int(drawn), len(rows) - 1))
        nearest = torch.minimum(nearest, (rows - rows[chosen[-1]]).square().sum(dim=1).double())
        chance = mass * nearest if float(nearest.sum()) > 0 else mass
    return rows[chosen].clone()


def _middles(
    rows: Tensor, mass: Tensor, centres: Tensor, usable: Tensor, grid: tuple[int, int], layer: PrototypeLayer
) -> Tensor:
    """For each centre the nearest patch that overlaps no earlier one, as long as there are such patches."""
    metric = METRIC_TABLE[layer.metric]
    unweighted = metric.share * torch.cdist(centres, rows).square()  # (count, M N)
    # For unit vectors what `weigh` says in another form, whose rounding decides between patches that are as near. Other
    # patches are those in the middle of their group, whatever the metric of the layer.
    distance = 1 - mass * (1 - unweighted) if metric.is_unit else unweighted - mass.log()
    number, cell = usable // (grid[0] * grid[1]), usable % (grid[0] * grid[1])
    row, column = cell // grid[1], cell % grid[1]
    height, width = layer.prototype_size
    is_free = torch.ones(len(rows), dtype=torch.bool)
    found: list[int] = []
    for of_centre in distance:
        if not is_free.any():
            is_free[:] = True
            is_free[found] = False
        best = int(of_centre.masked_fill(~is_free, torch.inf).argmin())
        found.append(best)
        overlaps = (row - row[best]).abs() < height, (column - column[best]).abs() < width
        is_free &= ~((number == number[best]) & overlaps[0] & overlaps[1])
    return torch.tensor(found)
