"""ProtoPNet's loss."""

from __future__ import annotations

from torch import Tensor

from .terms import (
    Labels,
    LossCoefficients,
    ModelLoss,
    Output,
    last_layer_l1,
    mean_of_nearest,
    mixed_cross_entropy,
    own_class,
    weigh,
)


def protopnet_loss(
    output: Output,
    labels: Labels,
    class_identity: Tensor,
    last_layer_weight: Tensor,
    coefficients: LossCoefficients | None = None,
    *,
    max_distance: float | None = None,
    label_smoothing: float = 0.0,
) -> ModelLoss:
    """ProtoPNet's total loss: cross-entropy, cluster cost, separation cost and the last layer's L1 norm.

    Args:
        output: has `logits` (B, K) and `min_distances` (B, P).
        labels: of the batch. Cluster and separation cost use those of the images themselves.
        class_identity: (P, K), one-hot.
        last_layer_weight: (K, P).
        coefficients: None for the original's.
        max_distance: see `cluster_cost`.
        label_smoothing: of the cross-entropy, in [0, 1).

    Raises:
        ValueError: the shapes disagree.

    Source: Chen et al. 2019 (ProtoPNet), equations 1 and 4; coefficients of the released `settings.py`.
    """
    own = own_class(output.min_distances, labels.own, class_identity)
    terms = {
        "cross_entropy": mixed_cross_entropy(output.logits, labels, label_smoothing=label_smoothing),
        "cluster": mean_of_nearest(output.min_distances, own, max_distance),
        "separation": mean_of_nearest(output.min_distances, ~own, max_distance),
        "l1": last_layer_l1(last_layer_weight, class_identity),
    }
    return weigh(terms, coefficients or LossCoefficients())
