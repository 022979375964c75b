"""Which patches may be the nearest: distances in expanded form, and the patches that rounding leaves undecided."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .chunking import product_dtype
from .metric import METRIC_TABLE, distance_of, takes_part, weigh
from .vectors import Vectors


class Centred(NamedTuple):
    """Vectors minus their centre, as factors of a matrix product.

    values: (..., K), 0 for a vector that is not finite.
    norm: (...), squared.
    """

    values: Tensor
    norm: Tensor

    def select(self, index: slice) -> Centred:
        """Views of some vectors along the first dimension."""
        return Centred(self.values[index], self.norm[index])


def centred(vectors: Vectors, centre: Tensor) -> Centred:
    """Vectors (..., K) minus their centre (K,), in the type of the product.

    A non-finite vector decides its row later; here it becomes zero, which excludes as many other vectors as possible.
    """
    values = torch.where(vectors.is_finite[..., None], vectors.values - centre, 0).to(product_dtype(vectors.values))
    return Centred(values, values.square().sum(-1))


def expanded(x: Centred, p: Centred) -> tuple[Tensor, Tensor]:
    """Squared distances |x|^2 + |p|^2 - 2 x.p of x (b, N, K) and p (P, K), and |x|^2 + |p|^2 alone, (b, P, N) each."""
    norms = x.norm[:, None, :] + p.norm[:, None]
    return torch.baddbmm(norms, p.values.expand(len(x.values), -1, -1), x.values.transpose(1, 2), alpha=-2), norms


def candidates(
    x: Centred,
    p: Centred,
    has_zero: Tensor | None,
    unit: float,
    metric: str,
    k: int = 1,
    weight: Tensor | None = None,
) -> Tensor:
    """Patches that may be among the k nearest: (b, P, N) bool, True wherever rounding to `unit` cannot exclude it.

    Args:
        x: patches (b, N, K).
        p: prototypes (P, K).
        has_zero: (b, P, N), which pairs have a zero vector; None if the metric has no rule for them.
        unit: unit roundoff of the distances that decide in the end.
        metric: name of the metric.
        k: how many patches are wanted.
        weight: (b, N), of the patches; patches of weight 0 are no candidates, except patch 0 if all weights are 0.
    """
    row = METRIC_TABLE[metric]
    if row.is_product:
        score = -(p.values @ x.values.transpose(1, 2))
    else:
        score = distance_of(expanded(x, p)[0], has_zero, metric)
    doubt = row.share * _doubt(x, p, unit, row.is_product)[..., None]
    if weight is None:
        return ~(score > _worst(score, k) + doubt)
    score = weigh(score, weight[:, None].to(score.dtype), metric)
    score = score.masked_fill(score.isnan(), torch.inf)
    worst = _worst(score, k)
    # A weight adds a few roundings of numbers up to 1, or up to the distance itself, to a score and to the last word.
    more = 32 * unit * (1 if row.is_unit else worst.abs())
    counts = takes_part(weight)
    counts[:, 0] |= ~counts.any(-1)
    return ~(score > worst + (doubt + more)) & counts[:, None]


def _worst(score: Tensor, k: int) -> Tensor:
    """The k-th smallest score over the patches, (b, P, 1)."""
    return score.amin(-1, keepdim=True) if k == 1 else score.topk(k, -1, largest=False).values[..., -1:]


def _doubt(x: Centred, p: Centred, unit: float, is_product: bool) -> Tensor:
    """How much larger than the k-th smallest score the score of a patch that is nearer can be, (b, P).

    With unit roundoff u, a score is off by at most (K + 6) u (|x| + |p|)^2, or K u |x||p| where it is a product, and
    the difference form, which has the last word, by (K + 3) u of itself; each counts for the k-th smallest score and
    for its rival. Squares may underflow as well.
    """
    terms = x.values.shape[-1]
    longest, length = x.norm.amax(-1, keepdim=True).sqrt(), p.norm.sqrt()
    reach = longest * length if is_product else (longest + length).square()
    return 4 * (terms + 8) * unit * reach + 4 * terms * torch.finfo(x.values.dtype).tiny
