"""Patches of a batch whose feature vectors are equal, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from protokern.search.order import as_bits


def first_copies(features: Tensor, size: tuple[int, int]) -> Tensor:
    """For every patch of `size` cells in features (B, D, H, W) the first one with the same vector, (B, N) int64.

    Patches are numbered image * N + patch.
    """
    windows = features.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (B, D, H', W', h, w)
    vectors = windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)  # (B N, D h w)
    _, group = torch.unique(as_bits(vectors), dim=0, return_inverse=True)
    position = torch.arange(len(group), device=group.device)
    first = torch.full_like(group, len(group)).scatter_reduce(0, group, position, "amin")
    return first[group].view(len(features), -1)


def drop_copies(distance: Tensor, first: Tensor, patch: Tensor | None) -> Tensor:
    """Distances (P, B n) with inf for every candidate whose vector equals that of an earlier one of the same list.

    Args:
        distance: (P, B n), in the order of (image, patch).
        first: (B, N) from `first_copies`.
        patch: (P, B), the patch of each candidate; None: candidates are all patches, n = N.
    """
    if patch is None:
        position = torch.arange(first.numel(), device=first.device)
        return distance.masked_fill(first.flatten() != position, torch.inf)
    vector = first[torch.arange(len(first), device=first.device), patch]  # (P, B), a number for each vector
    by_vector, order = vector.sort(dim=1, stable=True)
    is_copy = torch.zeros_like(by_vector, dtype=torch.bool)
    is_copy[:, 1:] = by_vector[:, 1:] == by_vector[:, :-1]
    return distance.masked_fill(is_copy.scatter(1, order, is_copy), torch.inf)
