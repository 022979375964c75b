"""Opening what the verbs work on: the data of a configuration, and the model of a run folder."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

import protokern
from protokern.cli.own_split_file import read_own_split
from protokern.config import RunConfig, apply_changes, differing_keys, parse_config
from protokern.config.run import check_text, with_old_defaults
from protokern.data import Splits, open_splits
from protokern.data.class_names import composed
from protokern.data.colours import channels_of_rgb
from protokern.data.decode import ReadOptions
from protokern.data.names import name_pairs_alike
from protokern.data.sources import BirdCounts, absolute_source, folder_of
from protokern.errors import CheckpointError, ConfigError, DataError
from protokern.models.base import PrototypeModel
from protokern.models.build import check_image_size, place_model
from protokern.push import PushResult
from protokern.train.checkpoint import find_checkpoint, load_model, read_state

# What may differ between a run and a later use of its model: none of it changes the net.
_FREE_TABLES = ("data", "prune")
_FREE_KEYS = ("train.batch_size", "train.feature_cache_mb", "train.channels_last")
_FIXED_KEYS = ("data.channels",)  # but this does
_MOST_COLOURS = 4  # RGB and opacity


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A trained model and where it is from.

    Attributes:
        folder: the run folder.
        checkpoint: the checkpoint's folder.
        model: on the device, in evaluation mode.
        config: of the run, with this call's changes.
        classes: class names.
        push: where the prototypes come from; None before a push.
        epoch: training epoch of the weights.
    """

    folder: Path
    checkpoint: Path
    model: PrototypeModel
    config: RunConfig
    classes: tuple[str, ...]
    push: PushResult | None
    epoch: int


def open_run(path: str, *, data: str | None, changes: Sequence[str], device: torch.device) -> OpenRun:
    """Load the model of a run folder or a checkpoint folder.

    Args:
        path: the folder.
        data: a data folder in place of the run's.
        changes: `--set`s; only settings that leave the net as it is.
        device: where the model goes.

    Raises:
        CheckpointError: no such run, or a broken one.
        ConfigError: a change is wrong, or changes the net.
    """
    checkpoint = find_checkpoint(Path(path))
    state = read_state(checkpoint)
    model, table, classes = load_model(checkpoint)
    table = with_old_defaults(table)
    trained = parse_config(table)
    config = with_data(parse_config(apply_changes(table, changes)), data)
    for key in differing_keys(trained, config):
        is_free = key.partition(".")[0] in _FREE_TABLES or key in _FREE_KEYS
        if not is_free or key in _FIXED_KEYS:
            raise ConfigError(f"--set {key}: cannot be changed after training. Train a new run with it.")
    if config.data.image_size != trained.data.image_size:
        check_image_size(model, config.model, config.data.image_size)
    return OpenRun(
        folder=run_folder(checkpoint),
        checkpoint=checkpoint,
        model=place_model(model, device, config.train.channels_last),
        config=config,
        classes=classes,
        push=state.push,
        epoch=state.epoch,
    )


def run_folder(checkpoint: Path) -> Path:
    """The run folder of a checkpoint's folder; that folder itself if it is in none."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint


def with_data(config: RunConfig, path: str | None) -> RunConfig:
    """The configuration with --data in place of `data.path`, if it was given; absolute, so that it holds anywhere."""
    if path is None:
        return config
    source = absolute_source(path)
    check_text("--data", source)
    return replace(config, data=replace(config.data, path=source))


def open_data(config: RunConfig, checked_part: tuple[int, int] = (0, 1), *, run: Path | None = None) -> Splits:
    """The data sets of a configuration, checked.

    Args:
        config: what to open.
        checked_part: as in `open_splits`.
        run: the run folder, which knows how a folder of class folders alone was split; None: there is none yet.

    Raises:
        DataError: they cannot be used.
        CheckpointError: what the run folder holds of the split is broken.
    """
    data = config.data
    return open_splits(
        data.path or None,
        image_size=data.image_size,
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        seed=config.train.seed,
        augmentation=data.augmentation,
        on_unreadable=data.on_unreadable,
        cache=data.cache,
        max_image_pixels=data.max_image_pixels,
        channels=data.channels,
        grey_range=data.grey_range,
        checked_part=checked_part,
        birds=BirdCounts(
            num_classes=data.birds_classes,
            train_per_class=data.birds_train,
            val_per_class=data.birds_val,
            test_per_class=data.birds_test,
            differ_in=data.birds_differ_in,
        ),
        own_split=None if run is None else read_own_split(run),
    )


def data_folder(config: RunConfig) -> Path | None:
    """The folder that the data of a configuration lie in; None for data that are in none."""
    return folder_of(config.data.path)


def reading_of(config: RunConfig) -> ReadOptions:
    """How a run reads every image, also one that is in none of its data sets."""
    data = config.data
    return ReadOptions(max_pixels=data.max_image_pixels, channels=data.channels, grey_range=data.grey_range)


def prepare_colours(config: RunConfig) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What brings pictures in colour, (B, 3, Y, X), to the channels of a run; None where that is nothing.

    Raises:
        ConfigError: the channels are no colours.
    """
    channels = config.data.channels
    if channels > _MOST_COLOURS:
        raise ConfigError(
            f"data.channels: must be at most {_MOST_COLOURS} to measure what colours and shapes matter; got {channels}."
        )
    return None if channels == 3 else partial(channels_of_rgb, channels=channels)


def with_absolute_store(config: RunConfig) -> RunConfig:
    """The configuration with an absolute `data.feature_store`, if it has one, so that it holds anywhere."""
    where = feature_store(config)
    if where is None:
        return config
    check_text("data.feature_store", str(where.absolute()))
    return replace(config, data=replace(config.data, feature_store=str(where.absolute())))


def feature_store(config: RunConfig) -> Path | None:
    """Where the features of a frozen backbone are; None: in the run folder."""
    return Path(config.data.feature_store) if config.data.feature_store else None


def check_classes(splits: Splits, classes: Sequence[str]) -> None:
    """Raise a DataError unless the data have exactly the classes of the model, in any form of accents."""
    ours, theirs = ([composed(name) for name in names] for names in (classes, splits.classes))
    missing, extra = (sorted({*one} - {*other}) for one, other in ((ours, theirs), (theirs, ours)))
    if missing or extra:
        parts = [
            f"{kind} {', '.join(names[:5])}" for kind, names in (("missing:", missing), ("unknown:", extra)) if names
        ]
        similar = name_pairs_alike(missing, extra)
        parts += [similar] if similar else []
        raise DataError(
            f"data: must have the {len(classes)} classes that the model was trained on; {'; '.join(parts)}. "
            "Give the data of the run."
        )
    if ours != theirs:  # the same classes, but an answer would be taken for another one
        first = next(k for k in range(len(ours)) if ours[k] != theirs[k])
        raise DataError(
            f"data: must have the classes in the order that the model was trained on; class {first} must be "
            f"{classes[first]!a}, got {splits.classes[first]!a}. Name or list them as the data of the run did."
        )


def check_pushed(run: OpenRun) -> PushResult:
    """Where the prototypes come from; a CheckpointError unless they are patches of images."""
    if run.push is None:
        raise CheckpointError(
            f"{run.checkpoint}: must be from after a push; its prototypes are not yet patches of images. "
            "Go on with 'protokern train --resume', or run 'protokern push' first."
        )
    return run.push


def versions() -> dict[str, str]:
    """Who wrote a run: the package, its commit if it is a checkout, and what it ran on."""
    made_by = {
        "protokern": protokern.__version__,
        "git": git_commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return {name: version for name, version in made_by.items() if version}


def git_commit() -> str:
    """The commit of the checkout the package is in, with "+" when files differ; empty outside of one."""
    root = Path(protokern.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
