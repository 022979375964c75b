"""TesNet's loss: ProtoPNet's over cosines, and two terms over the bases that the prototypes of each class are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .protopnet import protopnet_loss
from .terms import Labels, LossCoefficients, ModelLoss


class TwoReadings(Protocol):
    """The two fields of a TesNet's output that its loss reads."""

    @property
    def logits(self) -> Tensor: ...

    @property
    def cosine_distances(self) -> Tensor: ...


@dataclass(frozen=True)
class _Cosines:
    logits: Tensor
    min_distances: Tensor


def class_bases(prototypes: Tensor, class_identity: Tensor, size: int) -> Tensor:
    """The prototypes of each class in their order, (K, J, D); places that a class does not fill are 0.

    Args:
        prototypes: (P, D), or (P, D, h, w), whose cells are one vector of D * h * w numbers.
        class_identity: (P, K), one-hot.
        size: J, at least the number of prototypes of any class.
    """
    rows = prototypes.flatten(1)
    label = class_identity.argmax(dim=1)
    rank = (class_identity.cumsum(dim=0) * class_identity).sum(dim=1).long() - 1  # among those of the class
    places = rows.new_zeros(class_identity.shape[1] * size, rows.shape[1])
    return places.index_copy(0, label * size + rank, rows).unflatten(0, (-1, size))


def orthonormality_cost(bases: Tensor) -> Tensor:
    """How far the concepts of each class are from an orthonormal basis: the sum over classes of |B Bᵀ - I|, by entries.

    Args:
        bases: (K, J, D), of `class_bases`. A row of zeros is no concept, and adds nothing.

    Returns:
        Scalar, >= 0.

    Source: Wang, Liu, Wang, Jing 2021 (TesNet), orthonormality within a class; the norm is that of the
        released program.
    """
    is_concept = (bases != 0).any(dim=2).to(bases.dtype)  # (K, J)
    return (bases @ bases.transpose(1, 2) - torch.diag_embed(is_concept)).abs().sum()


def subspace_separation_cost(bases: Tensor) -> Tensor:
    """How far apart the subspaces of the classes are: the sum over all pairs of |BₐᵀBₐ - BᵦᵀBᵦ|, over the root of 2.

    It should be large, so it enters the total with a negative coefficient. All distances come from one K x K matrix of
    products; the (K, K, D, D) differences are never made. Classes whose subspaces are the same up to rounding count 0
    and get no gradient.

    Args:
        bases: (K, J, D), of `class_bases`.

    Returns:
        Scalar, >= 0. Every pair counts once, which is one half of the sum over ordered pairs.

    Source: Wang, Liu, Wang, Jing 2021 (TesNet), separation of the subspaces on the Grassmann manifold.
    """
    classes, size, depth = bases.shape
    if depth**2 <= classes * size**2:
        operators = (bases.transpose(1, 2) @ bases).flatten(1)  # (K, D D)
        operators = operators - operators.mean(dim=0)  # the differences are the same, and lose fewer digits
        shared = operators @ operators.T  # (K, K)
    else:  # the matrix of all concepts is the smaller one
        products = torch.tensordot(bases, bases, dims=([2], [2]))  # (K, J, K, J)
        shared = products.square().sum(dim=(1, 3))
    own = shared.diagonal()
    both = own[:, None] + own
    squared = both - 2 * shared
    is_apart = squared > torch.finfo(squared.dtype).eps * both
    distance = torch.where(is_apart, torch.where(is_apart, squared, 1).sqrt(), 0)  # (K, K)
    return distance.sum() / (2 * math.sqrt(2))


def tesnet_loss(
    output: TwoReadings,
    labels: Labels,
    class_identity: Tensor,
    last_layer_weight: Tensor,
    bases: Tensor,
    coefficients: LossCoefficients | None = None,
    *,
    orthonormality: float = 1e-4,
    subspace_separation: float = -1e-7,
    max_distance: float | None = None,
    label_smoothing: float = 0.0,
) -> ModelLoss:
    """TesNet's total loss: cross entropy, cluster and separation of cosines, L1, and the two terms of the bases.

    Args:
        output: has `logits` (B, K) and `cosine_distances` (B, P), in [0, 2].
        labels: of the batch. Cluster and separation cost use those of the images themselves.
        class_identity: (P, K), one-hot.
        last_layer_weight: (K, P).
        bases: (K, J, D), of `class_bases`.
        coefficients: None for the original's.
        orthonormality: coefficient of `orthonormality_cost`.
        subspace_separation: coefficient of `subspace_separation_cost`.
        max_distance: see `cluster_cost`. Cluster and separation are costs of the negative cosine, in [-1, 1].
        label_smoothing: of the cross entropy, in [0, 1).

    Raises:
        ValueError: the shapes disagree.

    Source: Wang, Liu, Wang, Jing 2021, "Interpretable Image Recognition by Constructing Transparent Embedding Space";
        coefficients of the released program.
    """
    total, terms = protopnet_loss(
        _Cosines(output.logits, output.cosine_distances - 1),
        labels,
        class_identity,
        last_layer_weight,
        coefficients,
        max_distance=max_distance,
        label_smoothing=label_smoothing,
    )
    of_bases = {
        "orthonormality": orthonormality_cost(bases),
        "subspace_separation": subspace_separation_cost(bases),
    }
    total = total + orthonormality * of_bases["orthonormality"]
    total = total + subspace_separation * of_bases["subspace_separation"]
    return ModelLoss(total, {**terms, **of_bases})
