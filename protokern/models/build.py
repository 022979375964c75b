"""A model from its settings, and its place on a device."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import torch
from torch import nn

from protokern.backbones import build_backbone
from protokern.errors import CheckpointError, ConfigError
from protokern.models.base import PrototypeModel
from protokern.models.feature_shape import BackboneFailedError, check_grid, find_feature_shape, in_channels_of
from protokern.models.registry import MODELS
from protokern.models.settings import ModelConfig

_BYTES_A_PIXEL = 256  # of a backbone's maps of an image, roughly


def build_model(
    config: ModelConfig, num_classes: int, image_size: int | tuple[int, int], channels: int = 3
) -> PrototypeModel:
    """Build the model that `config` describes, with new prototypes.

    Args:
        config: a checked configuration.
        num_classes: classes of the data.
        image_size: pixels, for the dry run that finds the shape of the feature map.
        channels: of the images.

    Raises:
        ConfigError: the parts do not fit each other, the backbone does not take images of this size, or the weights are
            unavailable.
    """
    backbone = build_backbone(
        config.backbone,
        weights=config.weights,
        in_channels=channels,
        stage=config.backbone_stage,
        salience_stage=None if config.salience_stage == "none" else config.salience_stage,
    )
    try:
        return MODELS[config.name].from_config(config, backbone, num_classes, image_size)
    except BackboneFailedError as error:
        raise ConfigError(_say_size(config, backbone, image_size, error.reason)) from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"model: {error}") from error


def check_image_size(model: PrototypeModel, config: ModelConfig, image_size: int | tuple[int, int]) -> None:
    """Refuse images of a size that a trained model does not take.

    Raises:
        ConfigError: its backbone fails on them, or its prototypes are larger than the grid of patches.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    try:
        _, *grid = find_feature_shape(model.backbone, in_channels_of(model.backbone), size)
        check_grid((grid[0], grid[1]), size, config)
    except BackboneFailedError as error:
        raise ConfigError(_say_size(config, model.backbone, image_size, error.reason)) from error
    except ValueError as error:
        raise ConfigError(f"data.image_size: {error}") from error


def _say_size(config: ModelConfig, backbone: nn.Module, image_size: int | tuple[int, int], reason: str) -> str:
    body = getattr(backbone, "body", None)
    wanted, patch = getattr(body, "only_size", None), getattr(body, "patch_size", None)
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    if patch is not None and any(side % patch for side in sides):
        return (
            f"data.image_size: must be a multiple of {patch} for backbone {config.backbone!r}, whose patches have "
            f"{patch} pixels; got {image_size!r}. Set {_in_words(_nearest_multiple(sides, patch))}."
        )
    if wanted is None:
        return (
            f"data.image_size: must be one that backbone {config.backbone!r} takes; got {image_size!r} ({reason}). Try "
            "a larger one."
        )
    return (
        f"data.image_size: must be {_in_words(wanted)} for backbone {config.backbone!r}; got {image_size!r} "
        f"({reason}). Set it, or choose another backbone."
    )


def _nearest_multiple(sides: tuple[int, int], patch: int) -> tuple[int, int]:
    rows, columns = (max(1, round(side / patch)) * patch for side in sides)
    return rows, columns


def _in_words(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"[{size[0]}, {size[1]}]"


def build_untrained(
    config: ModelConfig, num_classes: int, image_size: int | tuple[int, int], channels: int = 3
) -> PrototypeModel:
    """The same net without reading any weight file: for weights that come from a checkpoint."""
    return build_model(replace(config, weights="none"), num_classes, image_size, channels)


def check_memory(config: ModelConfig, num_classes: int, image_size: int | tuple[int, int], channels: int = 3) -> None:
    """Refuse settings, possibly from a stranger, of a net that would not fit into half of this machine's memory.

    Raises:
        CheckpointError: the net would not fit.
    """
    with torch.device("meta"):  # takes no memory
        net = build_untrained(config, num_classes, image_size, channels)
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    needed = sum(value.nbytes for value in net.state_dict().values()) + math.prod(sides) * _BYTES_A_PIXEL
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory / 2:
        raise CheckpointError(
            f"model: must fit into half of this machine's memory of {memory / 1e9:.1f} GB; got settings of one that "
            f"needs {needed / 1e9:.1f} GB. Open it on a larger machine, if it is what you trained."
        )


def place_model(model: PrototypeModel, device: torch.device, channels_last: bool) -> PrototypeModel:
    """Move a model to its device, with its convolutions in the wanted memory format."""
    model.to(device)
    for part in (model.backbone, model.add_on_layers):
        part.to(memory_format=image_format(channels_last))
    return model


def image_format(channels_last: bool) -> torch.memory_format:
    """The memory format of images and convolution weights."""
    return torch.channels_last if channels_last else torch.contiguous_format
