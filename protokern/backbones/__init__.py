"""Backbones by name: modules from images in [0, 1] to feature maps. Construction and initial weights only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protokern.backbones.names import has_imagenet_weights, is_timm, list_backbones
from protokern.deferred import defer

if TYPE_CHECKING:
    from protokern.backbones.registry import Backbone, build_backbone

__all__ = ["Backbone", "build_backbone", "has_imagenet_weights", "is_timm", "list_backbones"]

__getattr__ = defer(__name__, dict.fromkeys(("Backbone", "build_backbone"), "protokern.backbones.registry"))
