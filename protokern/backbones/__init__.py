"""Backbones by name: modules from images in [0, 1] to feature maps. Construction and initial weights only."""

from __future__ import annotations

from protokern.backbones.registry import Backbone, build_backbone, has_imagenet_weights, list_backbones
from protokern.backbones.timm_nets import is_timm

__all__ = ["Backbone", "build_backbone", "has_imagenet_weights", "is_timm", "list_backbones"]
