"""Layers that prototype nets are built from. No losses, no training."""

from __future__ import annotations

from protokern.nn.add_on import SalientLayers, make_add_on_layers
from protokern.nn.channel_layer import ChannelLayer, channel_pool
from protokern.nn.classifier import PrototypeClassifier, SlotSum
from protokern.nn.decision_tree import DecisionTree, KeptNodes
from protokern.nn.mean_distance import mean_distance
from protokern.nn.modes import evaluating
from protokern.nn.patch_layer import PatchLayer
from protokern.nn.prototype_layer import PrototypeLayer
from protokern.nn.rows import apply_to_rows
from protokern.nn.scoring_sheet import ScoringSheet
from protokern.nn.slots import EMPTY, PoolUse, SlotAssignment
from protokern.nn.unit_prototypes import UnitPrototypeLayer

__all__ = [
    "EMPTY",
    "ChannelLayer",
    "DecisionTree",
    "KeptNodes",
    "PatchLayer",
    "PoolUse",
    "PrototypeClassifier",
    "PrototypeLayer",
    "SalientLayers",
    "ScoringSheet",
    "SlotAssignment",
    "SlotSum",
    "UnitPrototypeLayer",
    "apply_to_rows",
    "channel_pool",
    "evaluating",
    "make_add_on_layers",
    "mean_distance",
]
