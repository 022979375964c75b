"""What the two metrics mean for pairs of patch vectors: the difference form, its gradient and non-finite vectors.

`sqeuclidean` is sum (x - p)^2. `cosine` is 1 - cos(x, p), computed as half the squared distance of the unit vectors, so
that it is exactly 0 where the vectors are equal; a zero vector is at distance 1 from everything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

METRICS = ("sqeuclidean", "cosine")


class Vectors(NamedTuple):
    """Vectors made ready for a metric; `...` are any leading dimensions.

    values: (..., K), the vectors, or the unit vectors for cosine; rows that are not finite are zeros.
    norm: (...), Euclidean norm; all ones for sqeuclidean, which does not need it.
    is_zero: (...), True for a zero vector under cosine.
    is_finite: (...), False where any component is inf or NaN.
    """

    values: Tensor
    norm: Tensor
    is_zero: Tensor
    is_finite: Tensor

    def select(self, index: tuple[Tensor | slice | None, ...]) -> Vectors:
        """The vectors at an index of the leading dimensions."""
        return Vectors(*(field[index] for field in self))


def prepare(vectors: Tensor, metric: str) -> Vectors:
    """Make `vectors` (..., K) ready for `distance` and `distance_gradient`."""
    is_finite = vectors.isfinite().all(-1)
    values = torch.where(is_finite[..., None], vectors, 0)
    if metric == "sqeuclidean":
        return Vectors(values, torch.ones_like(values[..., 0]), torch.zeros_like(is_finite), is_finite)
    # Scaling by the largest component keeps the squares of tiny and huge vectors in range.
    largest = values.abs().amax(-1)
    is_zero = largest == 0
    scaled = values / torch.where(is_zero, 1, largest)[..., None]
    length = scaled.square().sum(-1).sqrt()
    unit = scaled / torch.where(is_zero, 1, length)[..., None]
    return Vectors(unit, torch.where(is_zero, 1, largest * length), is_zero, is_finite)


def distance(x: Vectors, p: Vectors, metric: str) -> Tensor:
    """Distance of vectors that broadcast against each other, (..., K) -> (...). Non-finite vectors give NaN."""
    squared = (x.values - p.values).square().sum(-1)
    if metric == "cosine":
        squared = (0.5 * squared).masked_fill(x.is_zero | p.is_zero, 1)
    return squared.masked_fill(~(x.is_finite & p.is_finite), torch.nan)


def distance_gradient(grad: Tensor, x: Vectors, p: Vectors, metric: str) -> tuple[Tensor, Tensor]:
    """Gradients of `distance` at pairs: `grad` (M,) and M rows on each side -> grad_x (M, K), grad_p (M, K).

    Both are exactly zero where the vectors are equal. A pair with a non-finite vector gives NaN.
    """
    difference = x.values - p.values
    if metric == "sqeuclidean":
        grad_x = (2 * grad)[:, None] * difference
        grad_p = -grad_x
    else:
        # d cos / dx = (p - (p.x) x) / |x| for unit x and p; p.x = 1 - d turns it into a difference that vanishes.
        cosine_distance = 0.5 * difference.square().sum(-1, keepdim=True)
        live = torch.where(x.is_zero | p.is_zero, 0, grad)[:, None]
        grad_x = live * (difference - cosine_distance * x.values) / x.norm[:, None]
        grad_p = -live * (difference + cosine_distance * p.values) / p.norm[:, None]
    bad = ~(x.is_finite & p.is_finite)[:, None]
    return grad_x.masked_fill(bad, torch.nan), grad_p.masked_fill(bad, torch.nan)
