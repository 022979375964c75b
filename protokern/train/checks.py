"""What a model and the settings of a training may not ask of each other, refused before any work is done."""

from __future__ import annotations

from protokern.config.train import TrainConfig
from protokern.errors import ConfigError
from protokern.models.base import PrototypeModel
from protokern.ranks import SINGLE, Ranks
from protokern.train.optimizers import freeze


def check_settings(model: PrototypeModel, config: TrainConfig, num_images: int, ranks: Ranks = SINGLE) -> None:
    """Refuse settings that a model cannot be trained with.

    Args:
        model: whose training it is.
        config: of the training.
        num_images: number of training images.
        ranks: the processes that share a batch.

    Raises:
        ConfigError: a setting does not go with the model.
    """
    name = type(model).__name__
    if model.views > 1:
        views = f"a {name}, which sees {model.views} changed copies of each image at once"
        _require(config.backbone == "train", "backbone", '"train"', views, config.backbone)
        if model.waiting_layers("warm"):
            freeze(model, "warm", config)  # a wrong name costs no epoch
        _require(config.mixup in ("auto", 0), "mixup", "0", views, config.mixup)
    if model.whole_batch_loss:
        whole = f"a {name}, whose loss is one of the whole batch"
        _require(config.accumulation == 1, "accumulation", "1", whole, config.accumulation)
        _require(min(config.batch_size, num_images) > 1, "batch_size", "at least 2", whole, config.batch_size)
        if ranks.size > 1:
            raise ConfigError(f"model.name: must be trained in one process for {whole}; got {ranks.size} processes.")
    if not model.pushes:
        channels = f"a {name}, whose prototypes are no patches that could be copied"
        _require(config.prototype_start == "random", "prototype_start", '"random"', channels, config.prototype_start)
        _require(config.live_epochs == 0, "live_epochs", "0", channels, config.live_epochs)


def check_leaves(model: PrototypeModel, num_images: int) -> None:
    """Refuse a new tree with more leaves than there are training images: some leaf could have none.

    Raises:
        ConfigError: the tree is too deep.
    """
    if model.reasons != "path" or len(model.leaf_probabilities()) <= num_images:
        return
    depth, most = (len(model.leaf_probabilities()) - 1).bit_length(), max(num_images.bit_length() - 1, 1)
    raise ConfigError(
        f"model.depth: must be at most {most} for {num_images} training images, so that each of its 2 ** depth leaves "
        f"can have one; got {depth}. Set {most}."
    )


def _require(holds: bool, setting: str, wanted: str, model: str, got: object) -> None:
    if not holds:
        raise ConfigError(f"train.{setting}: must be {wanted} for {model}; got {got!r}. Set it.")
