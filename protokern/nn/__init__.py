"""Layers that prototype nets are built from. No losses, no training."""

from __future__ import annotations

from protokern.nn.add_on import make_add_on_layers
from protokern.nn.classifier import PrototypeClassifier
from protokern.nn.modes import evaluating
from protokern.nn.prototype_layer import PrototypeLayer

__all__ = ["PrototypeClassifier", "PrototypeLayer", "evaluating", "make_add_on_layers"]
