"""Batch norms that learn, where a batch is spread over several ranks or parts."""

from __future__ import annotations

import copy

import torch
from torch import nn

from protokern.config.train import TrainConfig
from protokern.errors import ConfigError
from protokern.models.base import PrototypeModel
from protokern.ranks import Ranks
from protokern.train.optimizers import freeze


def share_batch_norms(model: PrototypeModel, config: TrainConfig, ranks: Ranks, device: torch.device) -> None:
    """Let batch norms that use the statistics of a batch use those of the whole one, also over several ranks.

    Args:
        model: its backbone is changed in place; weights and their names stay.
        config: of the run.
        ranks: who share a batch.
        device: that the model will be on.

    Raises:
        ConfigError: the statistics cannot be those of the whole batch.
    """
    freeze(model, "joint", config)
    if not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training for layer in model.modules()):
        return
    if config.accumulation > 1:
        raise ConfigError(
            f"train.accumulation: must be 1 while batch norms learn from the statistics of a batch; got "
            f'{config.accumulation}. Add train.batch_norm = "frozen", or lower train.batch_size.'
        )
    if ranks.size == 1:
        return
    if device.type != "cuda":
        raise ConfigError(
            f'train.batch_norm: must be "frozen" with {ranks.size} processes on a {device.type}, where they cannot '
            'share the statistics of a batch; got "train". Set it, or train in one process.'
        )
    model.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(model.backbone)
    freeze(model, "joint", config)


def check_batches(model: PrototypeModel, config: TrainConfig, num_images: int, image_size: tuple[int, int]) -> None:
    """Refuse batches of a single image where a batch norm would see a single patch of it, before any work is done.

    Args:
        model: whose backbone's batch norms learn, or do not.
        config: of the run.
        num_images: for training.
        image_size: (Y, X), pixels.

    Raises:
        ConfigError: the statistics of one value cannot be taken.
    """
    if config.joint_epochs == 0 or min(config.batch_size, num_images) > 1:
        return
    freeze(model, "joint", config)
    if not _takes_one_image(model.backbone, image_size):
        raise ConfigError(
            f"train.batch_size: must be at least 2, for at least as many training images, while batch norms learn from "
            f"images of {image_size[0]} x {image_size[1]} pixels, of which they see one patch; got {config.batch_size} "
            f'for {num_images} images. Or set train.batch_norm = "frozen", or a larger data.image_size.'
        )


def _takes_one_image(backbone: nn.Module, image_size: tuple[int, int]) -> bool:
    """Whether batch norms that learn can take one image, tried with shapes alone: no statistics change."""
    shapes = copy.deepcopy(backbone).to("meta")
    try:
        with torch.no_grad():
            shapes(torch.zeros(1, 3, *image_size, device="meta"))
    except ValueError as error:
        return "more than 1 value per channel" not in str(error)
    except (RuntimeError, NotImplementedError):  # a net that cannot be run on shapes; training tells
        return True
    return True
