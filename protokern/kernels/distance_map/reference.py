"""The definition of `distance_map` and of its gradient, in plain torch, for any device. Letters as in geometry.py."""

from __future__ import annotations

import torch
from torch import Tensor

from ..chunking import chunk_budget, chunks, gradient_centre_of, product_dtype
from ..geometry import compute_dtype, grid_shape, patch_vectors, prototype_size, sum_patch_vectors
from ..metric import METRIC_TABLE, distance, prepare, zero_pairs
from ..vectors import Vectors


def distance_map(features: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    """Difference-form distance of every patch to every prototype, (B, P, H', W')."""
    dtype = compute_dtype(features.dtype)
    size = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    p = prepare(prototypes.flatten(1).to(dtype), metric)
    result = features.new_empty((len(features), len(prototypes), rows * columns), dtype=dtype)
    per_pair = rows * columns * p.values.shape[1]
    budget = chunk_budget(features.device)
    for images in chunks(len(features), max(1, budget // per_pair)):
        x = prepare(patch_vectors(features[images], size, dtype), metric)  # (b, N, K)
        for chosen in chunks(len(prototypes), max(1, budget // (per_pair * len(x.values)))):
            pairs = x.select((slice(None), None)), p.select((chosen, None))  # (b, 1, N), (P, 1)
            result[images, chosen] = distance(*pairs, metric)
    return result.view(*result.shape[:2], rows, columns)


def distance_map_backward(
    grad: Tensor, features: Tensor, prototypes: Tensor, metric: str, need_features: bool, need_prototypes: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of every distance, `grad` (B, P, H', W'), each shaped like its input, or (0,) where not needed.

    Two matrix products on centred vectors; images are summed in ascending order.
    """
    dtype = compute_dtype(features.dtype)
    size = prototype_size(prototypes)
    grid = grid_shape(features, prototypes)
    p = prepare(prototypes.flatten(1).to(dtype), metric)
    centre = gradient_centre_of(p, metric)
    grad_features = torch.empty_like(features) if need_features else features.new_empty(0)
    grad_p = torch.zeros_like(p.values)
    per_image = grid[0] * grid[1] * p.values.shape[1]
    for images in chunks(len(features), max(1, chunk_budget(features.device) // per_image)):
        x = prepare(patch_vectors(features[images], size, dtype), metric)  # (b, N, K)
        g = grad[images].flatten(2).to(dtype).contiguous()  # (b, P, N)
        to_x, to_p = map_gradients(g, x, p, centre, metric)
        if need_features:
            grad_features[images] = sum_patch_vectors(to_x, grid, size)
        grad_p += to_p
    if not need_prototypes:
        return grad_features, prototypes.new_empty(0)
    return grad_features, torch.empty_like(prototypes).copy_(grad_p.view(prototypes.shape))


def map_gradients(g: Tensor, x: Vectors, p: Vectors, centre: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Gradients of sum(g * distance) for g (b, P, N): to x (b, N, K), and to p (P, K) summed over images."""
    wide = product_dtype(x.values)
    has_zero = zero_pairs(x, p, metric)
    if has_zero is not None:
        g = g.masked_fill(has_zero, 0)
    g = g.to(wide)
    x_centred = (x.values - centre).to(wide)
    p_centred = (p.values - centre).to(wide)
    from_p = g.transpose(1, 2) @ p_centred  # (b, N, K)
    from_x = (g @ x_centred).sum(0)  # (P, K)
    gather = METRIC_TABLE[metric].gather
    return gather(g.sum(1), from_p, x, x_centred), gather(g.sum((0, 2)), from_x, p, p_centred)
