"""The definition of `min_distance` and of its gradient, in plain torch, for any device.

The nearest patch is the first one with the smallest difference-form distance. A matrix product finds the few patches
that rounding leaves in doubt; only those are compared by the difference form, so the result does not depend on how the
product rounds. Work goes in chunks: memory stays O(B P + B D H W). Letters as in geometry.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..chunking import add_rows_, chunk_budget, chunks, product_dtype
from ..geometry import compute_dtype, grid_shape, patch_vectors, prototype_size, sum_patch_vectors
from ..metrics import Vectors, distance, distance_gradient, prepare


def min_distance(features: Tensor, prototypes: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Smallest distance over the grid (B, P) and the flat index of its patch (B, P) int64."""
    dtype = compute_dtype(features.dtype)
    size = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    p = prepare(prototypes.flatten(1).to(dtype), metric)
    centre = p.values.mean(0) if len(prototypes) else p.values.new_zeros(p.values.shape[1])
    value = features.new_empty((len(features), len(prototypes)), dtype=dtype)
    patch = torch.empty_like(value, dtype=torch.int64)
    budget = chunk_budget(features.device)
    images_per_chunk = max(1, budget // (rows * columns * p.values.shape[1]))
    for images in chunks(len(features), images_per_chunk):
        x = prepare(patch_vectors(features[images], size, dtype), metric)  # (b, N, K)
        prototypes_per_chunk = max(1, budget // (len(x.values) * rows * columns))
        for chosen in chunks(len(prototypes), prototypes_per_chunk):
            nearest = _nearest_patch(x, p.select((chosen,)), centre, metric, budget)
            value[images, chosen], patch[images, chosen] = nearest
    return value, patch


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
        x = prepare(patch_vectors(features[images], size, dtype).flatten(0, 1), metric)  # (b * N, K)
        batch = len(x.values) // num_patches
        first_row = torch.arange(batch, device=features.device)[:, None] * num_patches  # (b, 1)
        grad_x = torch.zeros_like(x.values)
        for chosen in chunks(len(prototypes), max(1, budget // (batch * depth))):
            row = (first_row + patch[images, chosen]).flatten()  # (b * p,)
            grad = grad_value[images, chosen].to(dtype).flatten()
            index = torch.arange(len(prototypes), device=features.device)[chosen].repeat(batch)
            to_x, to_p = distance_gradient(grad, x.select((row,)), p.select((index,)), metric)
            if need_features:
                add_rows_(grad_x, row, to_x)
            if need_prototypes:
                grad_p[chosen] += to_p.unflatten(0, (batch, -1)).sum(0)
        if need_features:
            grad_features[images] = sum_patch_vectors(grad_x.unflatten(0, (batch, -1)), grid, size)
    if not need_prototypes:
        return grad_features, prototypes.new_empty(0)
    return grad_features, torch.empty_like(prototypes).copy_(grad_p.view(prototypes.shape))


def _nearest_patch(x: Vectors, p: Vectors, centre: Tensor, metric: str, budget: int) -> tuple[Tensor, Tensor]:
    """First nearest patch of x (b, N, K) for each of p (P, K): distance (b, P) and index (b, P)."""
    image, prototype, position = _candidates(x, p, centre, metric).nonzero(as_tuple=True)  # ascending (b, P, N)
    exact = torch.cat(
        [
            distance(x.select((image[some], position[some])), p.select((prototype[some],)), metric)
            for some in chunks(len(image), max(1, budget // x.values.shape[2]))
        ]
    )
    shape = (len(x.values), len(p.values))
    pair = image * shape[1] + prototype
    if len(pair) > shape[0] * shape[1]:
        smallest = exact.new_full((shape[0] * shape[1],), torch.inf).scatter_reduce(0, pair, exact, "amin")
        is_smallest = exact == smallest[pair]
        position = torch.where(is_smallest, position, x.values.shape[1])
        position = torch.full_like(smallest, x.values.shape[1], dtype=torch.int64).scatter_reduce(
            0, pair, position, "amin"
        )
        exact = smallest
    return _mark_non_finite(exact.view(shape), position.view(shape), x.is_finite, p.is_finite)


def _candidates(x: Vectors, p: Vectors, centre: Tensor, metric: str) -> Tensor:
    """Patches that may be the nearest: (b, P, N) bool, True wherever rounding cannot exclude it."""
    dtype = product_dtype(x.values)
    x_centred = (x.values - centre).to(dtype)
    p_centred = (p.values - centre).to(dtype)
    x_squared = x_centred.square().sum(-1)  # (b, N)
    p_squared = p_centred.square().sum(-1)  # (P,)
    score = torch.baddbmm(
        (x_squared[:, None, :] + p_squared[:, None]),
        p_centred.expand(len(x_centred), -1, -1),
        x_centred.transpose(1, 2),
        alpha=-2,
    )
    if metric == "cosine":
        # Twice the cosine distance of unit vectors; a zero vector is at distance 1.
        score = score.masked_fill(x.is_zero[:, None, :] | p.is_zero[:, None], 2)
    return ~(score > score.amin(-1, keepdim=True) + _doubt(x_squared, p_squared, x.values)[..., None])


def _doubt(x_squared: Tensor, p_squared: Tensor, values: Tensor) -> Tensor:
    """How much larger than the smallest score (b, P) the score of the truly nearest patch can be.

    A score of K-term products is off by at most (K + 6) u (|x| + |p|)^2, with u the unit roundoff, the difference form
    by (K + 3) u of itself; each enters for the smallest score and for its rival. Squares may also underflow.
    """
    terms = values.shape[-1]
    limits = torch.finfo(values.dtype)
    reach = (x_squared.amax(-1, keepdim=True).sqrt() + p_squared.sqrt()).square()  # (b, P)
    return (4 * (terms + 8) * 0.5 * limits.eps) * reach + 4 * terms * limits.tiny


def _mark_non_finite(value: Tensor, patch: Tensor, x_finite: Tensor, p_finite: Tensor) -> tuple[Tensor, Tensor]:
    """NaN and the first non-finite patch for images (b, N) that have one; NaN and patch 0 for such prototypes (P,)."""
    image_bad = ~x_finite.all(-1)  # (b,)
    first_bad = (~x_finite).to(torch.int8).argmax(-1)  # (b,)
    value = value.masked_fill(image_bad[:, None] | ~p_finite, torch.nan)
    patch = torch.where(image_bad[:, None], first_bad[:, None], patch)
    return value, torch.where(p_finite, patch, 0)
