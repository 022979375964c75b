"""Which patches may be the nearest: the expanded form of all distances, and what its rounding leaves in doubt."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .chunking import product_dtype
from .metrics import Vectors


class Centred(NamedTuple):
    """Vectors less their centre, as the factors of a matrix product.

    values: (..., K), 0 for a vector that is not finite.
    norm: (...), squared.
    """

    values: Tensor
    norm: Tensor

    def select(self, index: slice) -> Centred:
        """Views of some along the first dimension."""
        return Centred(self.values[index], self.norm[index])


def centred(vectors: Vectors, centre: Tensor) -> Centred:
    """Vectors (..., K) less their centre (K,), in the type of the product.

    A non-finite vector decides its row later; as a zero it excludes as many of the others as it can.
    """
    values = torch.where(vectors.is_finite[..., None], vectors.values - centre, 0).to(product_dtype(vectors.values))
    return Centred(values, values.square().sum(-1))


def expanded(x: Centred, p: Centred) -> tuple[Tensor, Tensor]:
    """Squared distances |x|^2 + |p|^2 - 2 x.p of x (b, N, K) and p (P, K), and |x|^2 + |p|^2 alone, (b, P, N) each."""
    norms = x.norm[:, None, :] + p.norm[:, None]
    return torch.baddbmm(norms, p.values.expand(len(x.values), -1, -1), x.values.transpose(1, 2), alpha=-2), norms


def candidates(x: Centred, p: Centred, has_zero: Tensor | None, unit: float, k: int = 1) -> Tensor:
    """Patches that may be among the k nearest: (b, P, N) bool, True wherever rounding to `unit` cannot exclude it.

    `has_zero` (b, P, N) marks pairs with a zero vector under cosine.
    """
    score, _ = expanded(x, p)
    if has_zero is not None:
        score = score.masked_fill(has_zero, 2)  # twice the cosine distance of unit vectors, which is 1
    worst = score.amin(-1, keepdim=True) if k == 1 else score.topk(k, -1, largest=False).values[..., -1:]
    return ~(score > worst + _doubt(x, p, unit)[..., None])


def _doubt(x: Centred, p: Centred, unit: float) -> Tensor:
    """How much larger than the k-th smallest score the score of a patch that is nearer can be, (b, P).

    With unit roundoff u, a score is off by at most (K + 6) u (|x| + |p|)^2, and the difference form, which has the last
    word, by (K + 3) u of itself; each counts for the k-th smallest score and for its rival. Squares may underflow as
    well.
    """
    terms = x.values.shape[-1]
    reach = (x.norm.amax(-1, keepdim=True).sqrt() + p.norm.sqrt()).square()
    return 4 * (terms + 8) * unit * reach + 4 * terms * torch.finfo(x.values.dtype).tiny
