"""The definition of `distance_at`, in plain torch, for any device; its gradient is that of `min_distance`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..chunking import chunk_budget, chunks
from ..geometry import compute_dtype, grid_shape, patch_vectors, prototype_size
from ..metric import distance, prepare


def distance_at(features: Tensor, prototypes: Tensor, patch: Tensor, metric: str) -> Tensor:
    """Difference-form distance at `patch` (B, P) or (B, P, m), of its shape."""
    dtype = compute_dtype(features.dtype)
    size = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    p = prepare(prototypes.flatten(1).to(dtype), metric)
    depth = p.values.shape[1]
    result = features.new_empty(patch.shape, dtype=dtype)
    if patch.dim() == 2:
        patch, several = patch[..., None], result[..., None]  # (B, P, 1)
    else:
        several = result  # (B, P, m)
    budget = chunk_budget(features.device)
    images_per_chunk = max(1, budget // (depth * max(rows * columns, patch.shape[1] * patch.shape[2])))
    for images in chunks(len(features), images_per_chunk):
        x = prepare(patch_vectors(features[images], size, dtype), metric)  # (b, N, K)
        first_row = torch.arange(len(x.values), device=patch.device)[:, None, None] * (rows * columns)  # (b, 1, 1)
        for chosen in chunks(len(prototypes), max(1, budget // (depth * len(x.values) * max(1, patch.shape[2])))):
            at_patch = x.take(first_row + patch[images, chosen])  # (b, P, m, K)
            several[images, chosen] = distance(at_patch, p.select((chosen, None)), metric)
    return result
