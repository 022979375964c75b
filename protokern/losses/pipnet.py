"""PIP-Net's terms: two views of an image agree cell by cell, and every prototype is somewhere in the batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .terms import Labels, ModelLoss, mixed_cross_entropy

_IN_PRODUCT, _IN_TANH = 1e-12, 1e-8  # inside of the logarithms, as released


def alignment_cost(maps1: Tensor, maps2: Tensor) -> Tensor:
    """How little the two views of each image agree on what is at a place: -log of the inner product of the cells.

    Each view is moved towards the other, which is held fixed meanwhile; the two halves are averaged. So the value is
    that of the plain term, and the gradient half of it.

    Args:
        maps1, maps2: (B, P, H, W), shares of the prototypes at every cell, which add up to 1; one view each.

    Returns:
        Scalar, >= 0 up to rounding.

    Raises:
        ValueError: the shapes disagree.

    Source: Nauta et al. 2023 (PIP-Net), equation 1; the fixed side is in the released `train.py`.
    """
    _check_equal("maps2", maps1, maps2)
    return (_disagreement(maps1, maps2.detach()) + _disagreement(maps2, maps1.detach())) / 2


def presence_cost(activations1: Tensor, activations2: Tensor) -> Tensor:
    """How little of the prototypes is in a batch: -log tanh of the sum of each one's presences, mean over prototypes.

    It is a number of the whole batch, and no mean over its images. The costs of the two views are averaged.

    Args:
        activations1, activations2: (B, P), presences in [0, 1]; one view each.

    Returns:
        Scalar, >= 0 up to rounding.

    Raises:
        ValueError: the shapes disagree.

    Source: Nauta et al. 2023 (PIP-Net), equation 2.
    """
    _check_equal("activations2", activations1, activations2)
    views = (activations1, activations2)
    costs = [-torch.log(torch.tanh(view.sum(dim=0)) + _IN_TANH).mean() for view in views]
    return (costs[0] + costs[1]) / 2


def pipnet_loss(
    logits: Tensor,
    maps: Tensor,
    activations: Tensor,
    labels: Labels,
    coefficients: Mapping[str, float],
    *,
    label_smoothing: float = 0.0,
) -> ModelLoss:
    """PIP-Net's total loss for two views of each image; terms whose coefficient is 0 are left out.

    Args:
        logits: (2 B, K), view by view.
        maps: (2 B, P, H, W).
        activations: (2 B, P).
        labels: of the B images.
        coefficients: of "alignment", "presence" and "cross_entropy".
        label_smoothing: of the cross entropy, in [0, 1).

    Raises:
        ValueError: there are not two views of each image.
    """
    count = len(labels.own)
    if len(logits) != 2 * count:
        raise ValueError(
            f"output: must be of two views of each of {count} images; got {len(logits)} rows. Give the model the first "
            "views of all images, then the second ones."
        )
    terms = {}
    if coefficients["alignment"]:
        terms["alignment"] = alignment_cost(maps[:count], maps[count:])
    if coefficients["presence"]:
        terms["presence"] = presence_cost(activations[:count], activations[count:])
    if coefficients["cross_entropy"]:
        mixed = None if labels.mixed_in is None else labels.mixed_in.repeat(2)
        both = Labels(labels.own.repeat(2), mixed, labels.share)
        terms["cross_entropy"] = mixed_cross_entropy(logits, both, label_smoothing=label_smoothing)
    total = sum((coefficients[name] * term for name, term in terms.items()), start=logits.new_zeros(()))
    return ModelLoss(total, terms)


def _disagreement(moved: Tensor, fixed: Tensor) -> Tensor:
    return -torch.log((moved * fixed).sum(dim=1) + _IN_PRODUCT).mean()


def _check_equal(name: str, one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:
        raise ValueError(
            f"{name}: must have the shape of the first view, {tuple(one.shape)}; got {tuple(other.shape)}. "
            "Give two views of the same images."
        )
