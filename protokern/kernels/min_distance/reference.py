"""The definition of `min_distance`, `prototype_pool` and their gradient, in plain torch, for any device.

The nearest patch is the first one with the smallest difference-form distance. A matrix product finds the few patches
that rounding leaves in doubt; only those are compared by the difference form, so the result does not depend on how the
product rounds. Work goes in chunks: memory stays O(B P + B D H W). Letters as in geometry.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..candidates import candidates, centred
from ..chunking import add_rows_, centre_of, chunk_budget, chunks
from ..geometry import compute_dtype, grid_shape, patch_vectors, prototype_size, sum_patch_vectors
from ..metric import distance, distance_gradient, is_weight, prepare, takes_part, weigh, zero_pairs
from ..similarity import activate
from ..vectors import Vectors


def min_distance(
    features: Tensor, prototypes: Tensor, metric: str, patch_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Smallest distance over the grid (B, P), weighted or not, and the flat index of its patch (B, P) int64."""
    dtype = compute_dtype(features.dtype)
    size = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    p = prepare(prototypes.flatten(1).to(dtype), metric)
    centre = centre_of(p, metric)
    p_centred = centred(p, centre)
    unit = torch.finfo(dtype).eps / 2
    value = features.new_empty((len(features), len(prototypes)), dtype=dtype)
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
            in_doubt = candidates(x_centred, p_centred.select(chosen), has_zero, unit, metric, weight=weight)
            nearest = _first_nearest(x, some, in_doubt, metric, budget, weight)
            bad = first_bad(x.is_finite, weight)
            value[images, chosen], patch[images, chosen] = mark_non_finite(*nearest, bad, some.is_finite)
    return value, patch


def prototype_pool(
    features: Tensor,
    prototypes: Tensor,
    metric: str,
    activation: str,
    epsilon: float,
    patch_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity (B, P), smallest distance (B, P) and the flat index of its patch (B, P) int64."""
    value, patch = min_distance(features, prototypes, metric, patch_weight)
    return activate(value, activation, epsilon), value, patch


def min_distance_backward(
    grad_value: Tensor,
    features: Tensor,
    prototypes: Tensor,
    patch: Tensor,
    metric: str,
    need_features: bool,
    need_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the distance at `patch` (B, P), each shaped like its input, or (0,) where it is not needed.

    Pairs are summed in ascending order of image and prototype, so the bits do not depend on the number of threads.
    """
    dtype = compute_dtype(features.dtype)
    size = prototype_size(prototypes)
    grid = grid_shape(features, prototypes)
    p = prepare(prototypes.flatten(1).to(dtype), metric)
    depth = p.values.shape[1]
    num_patches = grid[0] * grid[1]
    grad_features = torch.empty_like(features) if need_features else features.new_empty(0)
    grad_p = torch.zeros_like(p.values)
    budget = chunk_budget(features.device)
    images_per_chunk = max(1, budget // (depth * max(num_patches, len(prototypes))))
    for images in chunks(len(features), images_per_chunk):
        x = prepare(patch_vectors(features[images], size, dtype), metric)  # (b, N, K)
        batch = len(x.values)
        first_row = torch.arange(batch, device=features.device)[:, None] * num_patches  # (b, 1)
        grad_x = torch.zeros_like(x.values).flatten(0, 1)
        for chosen in chunks(len(prototypes), max(1, budget // (batch * depth))):
            row = first_row + patch[images, chosen]
            grad = grad_value[images, chosen].to(dtype)
            to_x, to_p = distance_gradient(grad, x.take(row), p.select((chosen,)), metric)  # (b, P, K)
            if need_features:
                add_rows_(grad_x, row.flatten(), to_x.flatten(0, 1))
            if need_prototypes:
                grad_p[chosen] += to_p.sum(0)
        if need_features:
            grad_features[images] = sum_patch_vectors(grad_x.unflatten(0, (batch, -1)), grid, size)
    if not need_prototypes:
        return grad_features, prototypes.new_empty(0)
    return grad_features, torch.empty_like(prototypes).copy_(grad_p.view(prototypes.shape))


def _first_nearest(
    x: Vectors, p: Vectors, in_doubt: Tensor, metric: str, budget: int, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of the candidates (b, P, N), the first with the smallest difference form: distance (b, P) and index (b, P)."""
    batch, num_prototypes, num_patches = in_doubt.shape
    shape = (batch, num_prototypes)
    image, prototype, position = in_doubt.nonzero(as_tuple=True)  # ascending
    row = image * num_patches + position
    if len(row) == batch * num_prototypes:  # one for every pair
        exact = distance(x.take(row.view(shape)), p, metric)
        return nan_last(weigh_rows(exact, row.view(shape), weight, metric)), position.view(shape)
    exact = torch.cat(
        [
            distance(x.take(row[some]), p.take(prototype[some]), metric)
            for some in chunks(len(row), max(1, budget // x.values.shape[2]))
        ]
    )
    exact = nan_last(weigh_rows(exact, row, weight, metric))
    pair = image * num_prototypes + prototype
    smallest = exact.new_full((batch * num_prototypes,), torch.inf).scatter_reduce(0, pair, exact, "amin")
    position = torch.where(exact == smallest[pair], position, num_patches)
    first = position.new_full(smallest.shape, num_patches).scatter_reduce(0, pair, position, "amin")
    return smallest.view(shape), first.view(shape)


def weigh_rows(exact: Tensor, row: Tensor, weight: Tensor | None, metric: str) -> Tensor:
    """Distances `exact` (...) to the patches `row` (...) of all images, weighted if there are weights (b, N)."""
    return exact if weight is None else weigh(exact, weight.flatten()[row], metric)


def nan_last(distance: Tensor) -> Tensor:
    """Distances with inf for NaN: what is not finite decides its row later, and sums may overflow on both sides."""
    return distance.masked_fill(distance.isnan(), torch.inf)


def first_bad(x_finite: Tensor, weight: Tensor | None) -> Tensor:
    """The first patch (b,) that is not finite or has no valid weight, 0 where none takes part, -1 where all is well."""
    good = x_finite if weight is None else x_finite & is_weight(weight)
    first = torch.where(good.all(-1), -1, (~good).to(torch.int8).argmax(-1))
    return first if weight is None else torch.where(takes_part(weight).any(-1), first, 0)


def mark_non_finite(value: Tensor, patch: Tensor, bad: Tensor, p_finite: Tensor) -> tuple[Tensor, Tensor]:
    """NaN and the patch `bad` (b,) for images that have one, not -1; NaN and patch 0 for prototypes not finite (P,).

    `value` and `patch` are (b, P), or (b, P, k).
    """
    image, prototype = (bad[:, None], p_finite[None]) if value.dim() == 2 else (bad[:, None, None], p_finite[:, None])
    value = value.masked_fill((image >= 0) | ~prototype, torch.nan)
    return value, torch.where(prototype, torch.where(image >= 0, image, patch), 0)
