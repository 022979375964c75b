"""The shape of a backbone's feature maps, found by running it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protokern.backbones.shapes import quick_shapes
from protokern.models.settings import ModelConfig
from protokern.nn import evaluating

# Errors of nets for images of a size that they do not take; some use assertions.
_FAILURES = (RuntimeError, ValueError, AssertionError, TypeError, LookupError, ArithmeticError, AttributeError)


class BackboneFailedError(ValueError):
    """A backbone failed on images of the tried size; `reason` is its message, in one line."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def find_feature_shape(backbone: nn.Module, in_channels: int, image_size: tuple[int, int]) -> tuple[int, int, int]:
    """Channels, rows and columns (C, H, W) of the backbone's feature maps, by running it on one black image.

    Runs in eval mode without gradients on the backbone's own device; nothing of the backbone is changed.

    Raises:
        BackboneFailedError: the backbone fails on such an image.
        ValueError: it does not give (1, C, H, W).
    """
    tensors = (*backbone.parameters(), *backbone.buffers())
    state = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, in_channels, *image_size, device=state.device, dtype=state.dtype)
    shape = tuple(image.shape)
    with evaluating(backbone), quick_shapes(backbone):
        try:
            features = backbone(image)
        except _FAILURES as error:
            reason = str(error).partition("\n")[0].rstrip(". ") or type(error).__name__
            raise BackboneFailedError(
                f"backbone: must map images {shape} to feature maps; it failed: {reason}. "
                "Check in_channels and image_size.",
                reason,
            ) from error
    if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[0] != 1:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"backbone: must map images {shape} to feature maps (1, C, H, W); got {got}. "
            "Leave out pooling and the classifier."
        )
    _, channels, height, width = features.shape
    return channels, height, width


def in_channels_of(backbone: nn.Module) -> int:
    """Channels of the images that a backbone takes: its `in_channels`, else 3."""
    channels = getattr(backbone, "in_channels", 3)
    return channels if isinstance(channels, int) else 3


def check_grid(grid: tuple[int, int], image_size: tuple[int, int], config: ModelConfig) -> None:
    """Raise a ValueError unless the feature grid of images of `image_size` is large enough for `config`.

    It must have room for a prototype, and at least `top_k` patches.
    """
    rows, columns = grid[0] - config.prototype_size[0] + 1, grid[1] - config.prototype_size[1] + 1
    if rows < 1 or columns < 1:
        raise ValueError(
            f"prototype_size: must fit the feature grid {grid} of {image_size} pixels; got {config.prototype_size}. "
            "Take smaller prototypes, or give the image_size that the model is for."
        )
    if rows * columns < config.top_k:
        raise ValueError(
            f"top_k: must be at most {rows * columns}, the patches in the feature grid {grid} of {image_size} pixels; "
            f"got {config.top_k}. Take fewer, or give the image_size that the model is for."
        )
