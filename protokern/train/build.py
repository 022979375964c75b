"""A model from its settings."""

from __future__ import annotations

from dataclasses import replace

from protokern.backbones import build_backbone
from protokern.errors import ConfigError
from protokern.models.base import PrototypeModel
from protokern.models.registry import MODELS
from protokern.models.settings import ModelConfig


def build_model(config: ModelConfig, num_classes: int, image_size: int | tuple[int, int]) -> PrototypeModel:
    """Build the model that `config` describes, with fresh prototypes.

    Args:
        config: a checked configuration.
        num_classes: classes of the data.
        image_size: pixels, for the dry run that finds the shape of the feature map.

    Raises:
        ConfigError: the parts do not fit each other, or the weights cannot be had.
    """
    backbone = build_backbone(config.backbone, weights=config.weights)
    try:
        return MODELS[config.name].from_config(config, backbone, num_classes, image_size)
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"model: {error}") from error


def build_untrained(config: ModelConfig, num_classes: int, image_size: int | tuple[int, int]) -> PrototypeModel:
    """The same net without reading any weight file: for weights that come from a checkpoint."""
    return build_model(replace(config, weights="none"), num_classes, image_size)
