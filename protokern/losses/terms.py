"""Loss terms that several models share, as pure functions of tensors. Equal to the originals in value and gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a batch whose images may have been mixed in pairs.

    Attributes:
        own: (B,) int64, of the images themselves.
        mixed_in: (B,) int64, of the images that were mixed in; None: none were.
        share: of the image itself in the mixture, in [0, 1].
    """

    own: Tensor
    mixed_in: Tensor | None = None
    share: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LossCoefficients:
    """The coefficients of the terms of a loss. The separation should be large, hence its sign.

    The defaults are those of the released ProtoPNet and ProtoPool, which agree; a model reads those of its terms.
    """

    cross_entropy: float = 1.0
    cluster: float = 0.8
    separation: float = -0.08
    l1: float = 1e-4
    orthogonality: float = 1.0


class ModelLoss(NamedTuple):
    """A loss, and its terms by name before they are multiplied by their coefficients; scalars on the device."""

    total: Tensor
    terms: dict[str, Tensor]


class Output(Protocol):
    """The two fields of a model's output that the losses read."""

    @property
    def logits(self) -> Tensor: ...

    @property
    def min_distances(self) -> Tensor: ...


def weigh(terms: dict[str, Tensor], coefficients: LossCoefficients) -> ModelLoss:
    """The sum of the terms, each times the coefficient of its name."""
    total = sum((getattr(coefficients, name) * term for name, term in terms.items()), start=torch.zeros(()))
    return ModelLoss(total, terms)


def mixed_cross_entropy(logits: Tensor, labels: Labels, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of logits (B, K); of mixed images by the share of each of the two labels.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", section 2.
    """
    own = F.cross_entropy(logits, labels.own, label_smoothing=label_smoothing)
    if labels.mixed_in is None:
        return own
    other = F.cross_entropy(logits, labels.mixed_in, label_smoothing=label_smoothing)
    return labels.share * own + (1 - labels.share) * other


def cluster_cost(
    min_distances: Tensor, labels: Tensor, class_identity: Tensor, *, max_distance: float | None = None
) -> Tensor:
    """Mean over the images of the distance to the nearest prototype of the image's own class.

    Args:
        min_distances: (B, P), distance of every prototype to its nearest patch.
        labels: (B,) int64, 0 .. K - 1.
        class_identity: (P, K), one-hot.
        max_distance: the original's bound: an image counts with at most this distance, without gradient at the bound;
            an image whose class has no prototype counts with it too. None: no bound, and such images are left out of
            the mean.

    Returns:
        Scalar, >= 0.

    Raises:
        ValueError: the shapes disagree.

    Source: Chen et al. 2019 (ProtoPNet), equation 2 (Clst); its bound is in the released `train_and_test.py`.
    """
    return mean_of_nearest(min_distances, own_class(min_distances, labels, class_identity), max_distance)


def separation_cost(
    min_distances: Tensor, labels: Tensor, class_identity: Tensor, *, max_distance: float | None = None
) -> Tensor:
    """Mean over the images of the distance to the nearest prototype of any other class.

    It should be large, so it enters the total with a negative coefficient. Arguments, bound and errors as
    `cluster_cost`.

    Source: Chen et al. 2019 (ProtoPNet), equation 2 (Sep, with the opposite sign).
    """
    return mean_of_nearest(min_distances, ~own_class(min_distances, labels, class_identity), max_distance)


def average_separation(min_distances: Tensor, labels: Tensor, class_identity: Tensor) -> Tensor:
    """Mean over the images of the mean distance to all prototypes of other classes; for the log, not for training."""
    other = ~own_class(min_distances, labels, class_identity)
    total = torch.where(other, min_distances, 0).sum(dim=1)  # (B,)
    return (total / other.sum(dim=1).clamp(min=1)).mean()


def last_layer_l1(weight: Tensor, class_identity: Tensor) -> Tensor:
    """Sum of the absolute weights (K, P) from prototypes to other classes than their own."""
    if weight.T.shape != class_identity.shape:
        raise ValueError(
            f"weight: must have shape (K, P) to match class_identity {tuple(class_identity.shape)}; "
            f"got {tuple(weight.shape)}. Give the last layer's weight."
        )
    return torch.where(class_identity.T > 0, 0, weight).abs().sum()


def own_class(min_distances: Tensor, labels: Tensor, class_identity: Tensor) -> Tensor:
    """Whether prototype p is of image b's class, (B, P) bool."""
    if labels.ndim != 1 or min_distances.shape != (len(labels), len(class_identity)):
        raise ValueError(
            f"min_distances: must have shape (B, P) = ({len(labels)}, {len(class_identity)}) to match labels "
            f"{tuple(labels.shape)} and class_identity {tuple(class_identity.shape)}; "
            f"got {tuple(min_distances.shape)}. Give labels (B,) and class_identity (P, K)."
        )
    return class_identity.T[labels] > 0


def mean_of_nearest(min_distances: Tensor, is_candidate: Tensor, max_distance: float | None) -> Tensor:
    """Mean over the images of the smallest distance among the candidates (B, P).

    The original takes max_distance minus the maximum of (max_distance - d) * mask. Filling the other entries with
    max_distance gives the same values and gradients (its `max` and our `min` both pick the first on a tie), without the
    rounding of that subtraction.
    """
    fill = torch.inf if max_distance is None else max_distance
    nearest = torch.where(is_candidate, min_distances, fill).min(dim=1).values  # (B,)
    if max_distance is not None:
        return nearest.mean()
    has_candidate = is_candidate.any(dim=1)
    return torch.where(has_candidate, nearest, 0).sum() / has_candidate.sum().clamp(min=1)
