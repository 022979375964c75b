"""Batch norms that learn, where a batch is spread over several ranks or parts."""

from __future__ import annotations

import torch
from torch import nn

from protokern.errors import ConfigError
from protokern.models.base import PrototypeModel
from protokern.train.optimizers import freeze
from protokern.train.ranks import Ranks
from protokern.train.settings import TrainConfig


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
