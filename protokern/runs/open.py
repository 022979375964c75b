"""Opening the model of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from protokern.config import RunConfig, apply_changes, differing_keys, parse_config
from protokern.config.run import with_data, with_old_defaults
from protokern.errors import BackendUnavailableError, CheckpointError, ConfigError, ProtokernError
from protokern.models.base import PrototypeModel
from protokern.models.build import build_untrained, check_image_size, check_memory, place_model
from protokern.models.registry import MODELS
from protokern.models.settings import ModelConfig
from protokern.push import PushResult
from protokern.runs.checkpoints import BROKEN, Checkpoint, broken_state, find_checkpoint, read_checkpoint, run_folder

# torch raises each of these for a device that is missing, or that torch was built without.
_NO_DEVICE = (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError, ValueError, OSError)
# Settings that may differ between a run and a later use of its model, because they do not change the net.
_TABLES_THAT_MAY_CHANGE = ("data", "prune")
_MAY_CHANGE_AFTER_TRAINING = ("train.batch_size", "train.feature_cache_mb", "train.channels_last")
_MAY_NOT_CHANGE = ("data.channels",)  # except this one, which does


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A trained model and its run.

    Attributes:
        folder: the run folder.
        checkpoint: the checkpoint's folder.
        model: on the device, in evaluation mode.
        config: configuration of the run, with the changes of this call.
        classes: class names.
        push: where the prototypes come from; None before a push.
        stage: the stage after which the weights were saved.
        epoch: training epoch of the weights.
    """

    folder: Path
    checkpoint: Path
    model: PrototypeModel
    config: RunConfig
    classes: tuple[str, ...]
    push: PushResult | None
    stage: str
    epoch: int


def open_run(
    path: Path | str,
    *,
    data: str | None = None,
    changes: Sequence[str] = (),
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a device does not change
) -> OpenRun:
    """Load the model of a run folder or a checkpoint folder.

    Args:
        path: the folder.
        data: a data folder instead of the run's.
        changes: values of `--set`; only settings that do not change the net.
        device: where the model goes.

    Raises:
        CheckpointError: the run does not exist or is broken.
        ConfigError: a change is wrong, or would change the net.
    """
    checkpoint = read_checkpoint(find_checkpoint(Path(path)))
    state = checkpoint.state
    model = rebuild_model(checkpoint)
    table = with_old_defaults(state.config)
    trained = parse_config(table)
    config = with_data(parse_config(apply_changes(table, changes)), data)
    for key in differing_keys(trained, config):
        is_free = key.partition(".")[0] in _TABLES_THAT_MAY_CHANGE or key in _MAY_CHANGE_AFTER_TRAINING
        if not is_free or key in _MAY_NOT_CHANGE:
            raise ConfigError(f"--set {key}: cannot be changed after training. Train a new run with it.")
    if config.data.image_size != trained.data.image_size:
        check_image_size(model, config.model, config.data.image_size)
    return OpenRun(
        folder=run_folder(checkpoint.folder),
        checkpoint=checkpoint.folder,
        model=place_model(model, device, config.train.channels_last),
        config=config,
        classes=state.classes,
        push=state.push,
        stage=state.stage,
        epoch=state.epoch,
    )


def check_pushed(run: OpenRun) -> PushResult:
    """The push that the prototypes come from; raises a CheckpointError unless they are patches of images."""
    if run.push is None:
        raise CheckpointError(
            f"{run.checkpoint}: must be from after a push; its prototypes are not yet patches of images. "
            "Go on with 'protokern train --resume', or run 'protokern push' first."
        )
    return run.push


def check_final(run: OpenRun) -> OpenRun:
    """Return the run; raise a CheckpointError if its classes still choose their prototypes, so that no answer can be
    explained."""
    if not run.model.is_hard:
        raise CheckpointError(
            f"{run.checkpoint}: must have final choices to be explained; its classes still choose their prototypes. "
            "Go on with 'protokern train --resume', or make them final with 'protokern push'."
        )
    return run


def load_model(path: Path | str) -> tuple[PrototypeModel, dict[str, Any], tuple[str, ...]]:
    """Rebuild a trained model from a run folder (its latest checkpoint) or a checkpoint folder.

    The model is on the CPU and in evaluation mode. Only files of the checkpoint are read.

    Returns:
        The model, the run's configuration as tables, and the class names.

    Raises:
        CheckpointError: the checkpoint does not exist or is broken.
    """
    checkpoint = read_checkpoint(find_checkpoint(Path(path)))
    return rebuild_model(checkpoint), checkpoint.state.config, checkpoint.state.classes


def rebuild_model(checkpoint: Checkpoint) -> PrototypeModel:
    """The model of a checkpoint, on the CPU and in evaluation mode.

    Raises:
        CheckpointError: settings or weights are broken, or belong to a model that this version does not have.
    """
    state, folder = checkpoint.state, checkpoint.folder
    try:
        image_size = _as_tuple(state.config["data"]["image_size"])
        settings = _model_config(folder, state.config["model"])
        channels = int(state.config["data"].get("channels", 3))
        check_memory(settings, len(state.classes), image_size, channels)
        model = build_untrained(settings, len(state.classes), image_size, channels)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except ProtokernError:
        raise
    except BROKEN as error:
        raise broken_state(folder, error) from error
    checkpoint.load_weights(model)
    return model.eval()


def _model_config(checkpoint: Path, table: Mapping[str, Any]) -> ModelConfig:
    """The settings of a checkpoint's model; a checkpoint of a newer version may have settings that this one lacks."""
    name = table["name"]
    if name not in MODELS:
        raise CheckpointError(
            f"{checkpoint}: holds a model {name!r}, which this version does not have. It has {', '.join(MODELS)}."
        )
    owner = MODELS[name].Config
    unknown = sorted({*table} - {entry.name for entry in fields(owner)})
    if unknown:
        raise CheckpointError(
            f"{checkpoint}: holds settings of a {name} that this version does not have: {', '.join(unknown)}. "
            "Update protokern."
        )
    return owner(**{key: _as_tuple(value) for key, value in table.items()})


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def choose_device(name: str) -> torch.device:
    """The device that --device means.

    Raises:
        BackendUnavailableError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=device)
    except _NO_DEVICE as error:
        reason = str(error).partition("\n")[0]
        raise BackendUnavailableError(
            f"--device: must be a device of this machine; got {name!r} ({reason}). Use cpu."
        ) from error
    return device
