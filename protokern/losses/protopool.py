"""ProtoPool's loss: ProtoPNet's terms over the prototypes that a class chooses, and the orthogonality of the slots."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .terms import (
    Labels,
    LossCoefficients,
    ModelLoss,
    Output,
    last_layer_l1,
    mean_of_nearest,
    mixed_cross_entropy,
    weigh,
)


def chosen_prototypes(assignment: Tensor, labels: Tensor) -> Tensor:
    """Which prototypes the class of each image has chosen, (B, P) bool.

    Those are the S prototypes with the largest sum over the S slots of the class; with a hard assignment, only those
    that are in a slot. No gradient flows through the choice.

    Args:
        assignment: (K, P, S), how much of each prototype is in each slot.
        labels: (B,) int64.
    """
    total = assignment.detach().sum(dim=2)[labels]  # (B, P)
    return _largest(total, assignment.shape[2]) & (total > 0)


def _largest(values: Tensor, count: int) -> Tensor:
    """Whether an entry is among the `count` largest of its row, (B, P) bool; a pruned pool may be smaller than S."""
    index = values.topk(min(max(count, 0), values.shape[1]), dim=1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, index, True)


def orthogonality_cost(assignment: Tensor) -> Tensor:
    """How much the slots of a class choose the same prototypes: mean absolute cosine between different slots.

    Args:
        assignment: (K, P, S).

    Returns:
        Scalar: the sum over all ordered pairs of different slots of a class, over the K * S slots; from 0, all slots
        differ, to S - 1, all are the same.

    Source: Rymarczyk et al. 2022 (ProtoPool), equation 3, taken on the assignment.
    """
    return _sum_of_cosines(assignment, absolute=True) / (assignment.shape[0] * assignment.shape[2])


def released_orthogonality_cost(presence_logits: Tensor) -> Tensor:
    """The released program's term: cosines between the raw logits (K, P, S) of the slots, with their signs.

    Slots with opposite logits lower it below 0, although their choices can be the same.

    Source: `train.py` of gmum/ProtoPool.
    """
    return _sum_of_cosines(presence_logits, absolute=False) / (presence_logits.shape[0] * presence_logits.shape[2])


def _sum_of_cosines(vectors: Tensor, *, absolute: bool) -> Tensor:
    """Sum over the classes of the cosines between all pairs of different slots of `vectors` (K, P, S)."""
    unit = F.normalize(vectors, dim=1)
    cosines = unit.transpose(1, 2) @ unit  # (K, S, S)
    other = 1 - torch.eye(cosines.shape[1], dtype=cosines.dtype, device=cosines.device)
    return ((cosines.abs() if absolute else cosines) * other).sum()


def protopool_loss(
    output: Output,
    labels: Labels,
    assignment: Tensor,
    last_layer_weight: Tensor | None,
    slot_identity: Tensor,
    coefficients: LossCoefficients | None = None,
    *,
    presence_logits: Tensor | None = None,
    max_distance: float | None = None,
    label_smoothing: float = 0.0,
) -> ModelLoss:
    """ProtoPool's total loss: that of ProtoPNet over the chosen prototypes, and the orthogonality of the slots.

    Args:
        output: has `logits` (B, K) and `min_distances` (B, P).
        labels: of the batch. Cluster and separation cost use those of the images themselves.
        assignment: (K, P, S).
        last_layer_weight: (K, K * S); None: the slots are summed up, so there is no L1 term.
        slot_identity: (K * S, K), one-hot: the class of each slot.
        coefficients: None for the original's.
        presence_logits: (K, P, S); if given, the terms are those of the released program: the orthogonality of these
            logits, signed, and the separation over the P - S prototypes that are chosen least.
        max_distance: see `cluster_cost`.
        label_smoothing: of the cross entropy, in [0, 1).

    Raises:
        ValueError: the shapes disagree.

    Source: Rymarczyk et al. 2022 (ProtoPool), section 3.3; coefficients of the released program.
    """
    distances = output.min_distances
    num_prototypes, num_slots = assignment.shape[1:]
    if distances.shape != (len(labels.own), num_prototypes):
        raise ValueError(
            f"min_distances: must have shape (B, P) = ({len(labels.own)}, {num_prototypes}) to match labels and "
            f"assignment; got {tuple(distances.shape)}. Give the output of the model that the assignment is from."
        )
    if presence_logits is None:
        chosen = chosen_prototypes(assignment, labels.own)
        others, orthogonality = ~chosen, orthogonality_cost(assignment)
    else:
        shares = assignment.detach()
        chosen = _largest(shares.sum(dim=2)[labels.own], num_slots)
        others = _largest((1 - shares).sum(dim=2)[labels.own], num_prototypes - num_slots)
        orthogonality = released_orthogonality_cost(presence_logits)
    terms = {
        "cross_entropy": mixed_cross_entropy(output.logits, labels, label_smoothing=label_smoothing),
        "cluster": mean_of_nearest(distances, chosen, max_distance),
        "separation": mean_of_nearest(distances, others, max_distance),
        "orthogonality": orthogonality,
    }
    if last_layer_weight is not None:
        terms["l1"] = last_layer_l1(last_layer_weight, slot_identity)
    return weigh(terms, coefficients or LossCoefficients())
