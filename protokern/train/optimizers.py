"""Which parameters learn in which stage and at which rate; which batch norms are frozen, and what the others need."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from protokern.config.train import TrainConfig
from protokern.errors import ConfigError
from protokern.models.base import PrototypeModel, vectors_of
from protokern.ranks import Ranks
from protokern.results.stages import Stage
from protokern.train.stages import LEARNING


def learning_rates(model: PrototypeModel, stage: Stage, config: TrainConfig) -> dict[str, float]:
    """As `PrototypeModel.learning_rates`."""
    return model.learning_rates(stage, config)


def freeze(model: PrototypeModel, stage: Stage, config: TrainConfig) -> None:
    """Let only the parts of `stage` learn, and put only these in training mode.

    A frozen part is in evaluation mode: its batch norms neither use nor update batch statistics. Its parameters require
    no gradient, so that autograd builds no graph through it.
    """
    rates = model.learning_rates(stage, config)
    model.eval()
    model.training = stage in LEARNING
    for part in model.parts:
        module: nn.Module = getattr(model, part)
        module.requires_grad_(part in rates)
        module.train(part in rates)
    if "backbone" in rates:
        hold_back(model.backbone, config, model.waiting_layers(stage))
    if stage == "live":
        vectors_of(model).requires_grad_(True)  # only to pass the gradient on to the add-on layers


def hold_back(backbone: nn.Module, config: TrainConfig, waiting: Sequence[str] = ()) -> None:
    """Freeze again what `frozen_layers`, the `waiting` layers of the stage and `batch_norm` keep from learning."""
    layers = dict(backbone.named_modules())
    named = (("train.frozen_layers", config.frozen_layers), ("model.early_layers", waiting))
    for setting, name in ((setting, name) for setting, names in named for name in names):
        if name not in layers:
            close = difflib.get_close_matches(name, layers, n=3)
            hint = f"Similar: {', '.join(close)}." if close else f"At the top: {', '.join(_children(backbone))}."
            raise ConfigError(f"{setting}: must name submodules of the backbone; got {name!r}. {hint}")
        layers[name].requires_grad_(False)
        layers[name].eval()
    if config.batch_norm == "frozen":
        for layer in layers.values():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()


def _children(backbone: nn.Module) -> list[str]:
    return [name for name, _ in backbone.named_children()]


def make_optimizer(model: PrototypeModel, stage: Stage, config: TrainConfig) -> torch.optim.Optimizer:
    """Freeze for `stage`, then Adam over what learns, one group a part; only backbone and add-on layers decay."""
    freeze(model, stage, config)
    groups = [
        {
            "name": part,
            "params": [parameter for parameter in getattr(model, part).parameters() if parameter.requires_grad],
            "lr": rate,
            "base_lr": rate,
            "weight_decay": config.weight_decay if part in ("backbone", "add_on_layers") else 0.0,
        }
        for part, rate in model.learning_rates(stage, config).items()
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # Fused: a step on features takes a few milliseconds, of which the update would otherwise be a tenth.
    return optimizer(groups, fused=True) if config.backbone == "frozen" else optimizer(groups)


def schedule_factor(stage: Stage, progress: float, epochs: int, config: TrainConfig) -> float:
    """The factor of the base learning rates.

    Args:
        stage: "joint" and "hardening" share one schedule; in "live" the rates fall linearly.
        progress: number of epochs of the schedule that are done, with the share of the present one, in [0, `epochs`).
        epochs: number of joint and hardening epochs, or of live epochs.

    Source: "step" is the released ProtoPNet: StepLR(5, 0.1) is stepped before each joint epoch, so the rate first
        falls after four of them.
    """
    if stage == "live":
        return 1 - progress / epochs
    if stage not in ("joint", "hardening") or config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return config.step_gamma ** ((int(progress) + 1) // config.step_size)
    share = progress / epochs
    return 1 - share if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float | Mapping[str, float]) -> None:
    """Set every group to its base rate times `factor`, or times that of its part."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * (factor if isinstance(factor, float) else factor[group["name"]])


def share_batch_norms(model: PrototypeModel, config: TrainConfig, ranks: Ranks, device: torch.device) -> None:
    """Let batch norms that learn use the statistics of the whole batch, also over several ranks.

    Args:
        model: its backbone is changed in place; weights and their names stay.
        config: of the run.
        ranks: the processes that share a batch.
        device: where the model will be.

    Raises:
        ConfigError: the batch norms cannot use the statistics of the whole batch.
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
    """Refuse, before any work is done, batches of a single image of which a batch norm would see a single patch.

    Args:
        model: its backbone may have batch norms that learn.
        config: of the run.
        num_images: number of training images.
        image_size: (Y, X), pixels.

    Raises:
        ConfigError: a batch norm would get one value, which has no variance.
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
    except (RuntimeError, NotImplementedError):  # a net that cannot run on shapes alone; training will show
        return True
    return True
