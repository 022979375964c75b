"""A model from its settings."""

from __future__ import annotations

from dataclasses import replace

from protokern.backbones import build_backbone
from protokern.errors import ConfigError
from protokern.models.base import PrototypeModel
from protokern.models.registry import MODELS
from protokern.train.settings import ModelConfig


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
        return MODELS[config.name](
            backbone,
            num_classes,
            prototypes_per_class=config.prototypes_per_class,
            prototype_dim=config.prototype_dim,
            prototype_size=config.prototype_size,
            add_on_layers=config.add_on_layers,
            activation=config.activation,
            metric=config.metric,
            epsilon=config.epsilon,
            correct_class_weight=config.correct_class_weight,
            incorrect_class_weight=config.incorrect_class_weight,
            image_size=image_size,
        )
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"model: {error}") from error


def build_untrained(config: ModelConfig, num_classes: int, image_size: int | tuple[int, int]) -> PrototypeModel:
    """The same net without reading any weight file: for weights that come from a checkpoint."""
    return build_model(replace(config, weights="none"), num_classes, image_size)
