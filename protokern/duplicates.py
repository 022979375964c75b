"""Which prototypes are duplicates."""

from __future__ import annotations

import torch
from torch import Tensor

OVERLAP = 0.5  # intersection over union of two source patches, above which people see the same
_ROUNDING = 1e-5  # relative to the largest number of a vector


def find_copies(
    vectors: Tensor,
    is_own: Tensor,
    need: Tensor,
    image: Tensor | None = None,
    patch: Tensor | None = None,
    grid: tuple[int, int] = (1, 1),
) -> dict[int, int]:
    """The prototypes that are copies, each with the one that is kept instead.

    Two of the same classes are copies of each other if they have the same vector up to rounding, the same source patch,
    or source patches that overlap by more than OVERLAP. The one with the larger `need` is kept, the first one on a tie.

    Args:
        vectors: (P, D, h, w) or (P, D), the prototypes.
        is_own: (K, P) bool, the classes of each.
        need: (P,), how much each is needed.
        image: (P,) int64, their source images; -1: no source. None: unknown.
        patch: (P,) int64, flat index row * W' + column in `grid`.
        grid: (H', W').
    """
    flat = vectors.flatten(1)
    size = (vectors.shape[2], vectors.shape[3]) if vectors.ndim == 4 else (1, 1)
    # Copies have the same classes, so only those of the same classes are compared.
    _, group = is_own.T.unique(dim=0, return_inverse=True)
    copies: dict[int, int] = {}
    for label in range(int(group.max()) + 1):
        members = (group == label).nonzero().flatten()
        members = members[need[members].argsort(descending=True, stable=True)]
        is_same = _same_vectors(flat[members])
        if image is not None and patch is not None:
            is_same |= _same_sources(image[members], patch[members], grid[1], size)
        stays: list[int] = []  # places in `members`
        for place, prototype in enumerate(members.tolist()):
            partner = next((one for one in stays if is_same[place, one]), None)
            if partner is None:
                stays.append(place)
            else:
                copies[prototype] = int(members[partner])
    return copies


def same_vector(one: Tensor, other: Tensor) -> bool:
    """Whether two vectors are equal up to rounding."""
    return bool(_same_vectors(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def _same_vectors(vectors: Tensor) -> Tensor:
    """(A, A) bool for (A, D)."""
    largest = vectors.abs().amax(dim=1)  # (A,)
    distance = torch.stack([(vectors - one).abs().amax(dim=1) for one in vectors])
    return distance <= _ROUNDING * torch.minimum(largest, largest[:, None])


def _same_sources(image: Tensor, patch: Tensor, columns: int, size: tuple[int, int]) -> Tensor:
    """(A, A) bool for images and patches (A,) of prototypes of `size` (h, w) cells."""
    row, column = patch // columns, patch % columns
    height = (size[0] - (row - row[:, None]).abs()).clamp(min=0)
    width = (size[1] - (column - column[:, None]).abs()).clamp(min=0)
    both = height * width
    share = both / (2 * size[0] * size[1] - both)
    return (image == image[:, None]) & (image >= 0) & (share > OVERLAP)
