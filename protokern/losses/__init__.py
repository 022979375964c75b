"""Losses of prototype nets: pure functions of tensors, one file per paper, and the terms that they share."""

from __future__ import annotations

from .forbidden import forbidden_cost
from .pipnet import alignment_cost, pipnet_loss, presence_cost
from .protopnet import protopnet_loss
from .protopool import chosen_prototypes, orthogonality_cost, protopool_loss, released_orthogonality_cost
from .terms import (
    Labels,
    LossCoefficients,
    ModelLoss,
    average_separation,
    cluster_cost,
    last_layer_l1,
    mixed_cross_entropy,
    separation_cost,
    weigh,
)
from .tesnet import class_bases, orthonormality_cost, subspace_separation_cost, tesnet_loss

__all__ = [
    "Labels",
    "LossCoefficients",
    "ModelLoss",
    "alignment_cost",
    "average_separation",
    "chosen_prototypes",
    "class_bases",
    "cluster_cost",
    "forbidden_cost",
    "last_layer_l1",
    "mixed_cross_entropy",
    "orthogonality_cost",
    "orthonormality_cost",
    "pipnet_loss",
    "presence_cost",
    "protopnet_loss",
    "protopool_loss",
    "released_orthogonality_cost",
    "separation_cost",
    "subspace_separation_cost",
    "tesnet_loss",
    "weigh",
]
