"""What a model gives for a batch, and the parts of an answer that is a path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class ModelOutput:
    """The output of a prototype net for a batch.

    Attributes:
        logits: (B, K).
        min_distances: (B, P), distance of every prototype to its nearest patch.
        activations: (B, P), contribution of every prototype before weights: similarity at that patch for ProtoPNet,
            focal similarity for ProtoPool.
        patches: (B, P) int64, flat index h * W' + w of that patch.
    """

    logits: Tensor
    min_distances: Tensor
    activations: Tensor
    patches: Tensor


# Lets torch.export trace, save and load a whole model.
torch.export.register_dataclass(ModelOutput, serialized_type_name="protokern.models.base.ModelOutput")


class Decision(NamedTuple):
    """One step of a decision path.

    Attributes:
        prototype: its index.
        is_present: whether the path takes the side "present".
        probability: that the prototype is present, in [0, 1].
    """

    prototype: int
    is_present: bool
    probability: float


class Leaf(NamedTuple):
    """Where a decision path ends.

    Attributes:
        leaf: its number.
        probabilities: (K,), of the classes in it.
        share: the probability with which the whole model ends there, in [0, 1].
    """

    leaf: int
    probabilities: Tensor
    share: float


class Node(NamedTuple):
    """A node of a decision tree.

    Attributes:
        prototype: that a branch asks for; None: a leaf.
        absent: position in the list of nodes of the side "absent"; None: a leaf.
        present: of the side "present".
        leaf: number of a leaf; None: a branch.
    """

    prototype: int | None = None
    absent: int | None = None
    present: int | None = None
    leaf: int | None = None
