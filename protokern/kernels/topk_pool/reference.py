"""The definition of `topk_distance`, in plain torch, for any device: that of `min_distance` for more than one patch.

A matrix product finds the patches that rounding leaves in doubt; only those are compared by the difference form. Work
goes in chunks: memory stays O(B P k + B D H W). Letters as in geometry.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..candidates import candidates, centred
from ..chunking import centre_of, chunk_budget, chunks
from ..geometry import compute_dtype, grid_shape, patch_vectors, prototype_size
from ..metric import distance, prepare, zero_pairs
from ..min_distance.reference import first_bad, mark_non_finite, nan_last, weigh_rows
from ..vectors import Vectors


def topk_distance(
    features: Tensor, prototypes: Tensor, k: int, metric: str, patch_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k smallest distances over the grid, ascending, (B, P, k), and their patches (B, P, k) int64.

    Where fewer than k patches take part, the rest are inf at the patch of the nearest.
    """
    dtype = compute_dtype(features.dtype)
    size = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    p = prepare(prototypes.flatten(1).to(dtype), metric)
    centre = centre_of(p, metric)
    p_centred = centred(p, centre)
    unit = torch.finfo(dtype).eps / 2
    value = features.new_empty((len(features), len(prototypes), k), dtype=dtype)
    patch = torch.empty_like(value, dtype=torch.int64)
    num_patches, depth = rows * columns, p.values.shape[1]
    budget = chunk_budget(features.device)
    for images in chunks(len(features), max(1, budget // (num_patches * depth))):
        x = prepare(patch_vectors(features[images], size, dtype), metric)  # (b, N, K)
        x_centred = centred(x, centre)
        weight = None if patch_weight is None else patch_weight[images].flatten(1)  # (b, N)
        for chosen in chunks(len(prototypes), max(1, budget // (len(x.values) * max(num_patches, depth)))):
            some = p.select((chosen,))
            has_zero = zero_pairs(x, some, metric)
            in_doubt = candidates(x_centred, p_centred.select(chosen), has_zero, unit, metric, k, weight)
            nearest = _first_nearest(x, some, in_doubt, k, metric, budget, weight)
            bad = first_bad(x.is_finite, weight)
            value[images, chosen], patch[images, chosen] = mark_non_finite(*nearest, bad, some.is_finite)
    return value, patch


def _first_nearest(
    x: Vectors, p: Vectors, in_doubt: Tensor, k: int, metric: str, budget: int, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of the patches `in_doubt` (b, P, N), the k with the smallest difference form, the first on a tie: (b, P, k)."""
    batch, num_prototypes, num_patches = in_doubt.shape
    image, prototype, position = in_doubt.nonzero(as_tuple=True)  # ascending
    row = image * num_patches + position
    pair = image * num_prototypes + prototype
    exact = x.values.new_empty(len(row))
    for some in chunks(len(row), max(1, budget // x.values.shape[2])):
        exact[some] = distance(x.take(row[some]), p.take(prototype[some]), metric)
    exact = nan_last(weigh_rows(exact, row, weight, metric))
    values, patches = [], []
    for _ in range(k):
        smallest = exact.new_full((batch * num_prototypes,), torch.inf).scatter_reduce(0, pair, exact, "amin")
        where = torch.where(exact == smallest[pair], position, num_patches)
        first = position.new_full(smallest.shape, num_patches).scatter_reduce(0, pair, where, "amin")
        values.append(smallest)
        patches.append(first)
        # Whoever was taken is out: beyond every distance, and beyond every position among the infinite ones.
        taken = where == first[pair]
        exact = exact.masked_fill(taken, torch.inf)
        position = position.masked_fill(taken, num_patches)
    shape = (batch, num_prototypes, k)
    found = torch.stack(patches, -1).view(shape)
    found = torch.where(found == num_patches, found[..., :1], found)  # fewer than k take part
    return torch.stack(values, -1).view(shape), found
