"""A new run that begins with the trained net of another one: which settings it has, and what it may not change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protokern.config import RunConfig, differing_keys, parse_config
from protokern.config.run import (
    MADE_BY,
    changed_tables,
    read_toml,
    with_absolute_store,
    with_data,
    with_old_defaults,
)
from protokern.errors import CheckpointError, ConfigError
from protokern.models.base import PrototypeModel
from protokern.push import PushResult
from protokern.runs.checkpoints import Checkpoint, find_checkpoint, read_checkpoint, run_folder
from protokern.runs.folder import RUN_FILE, check_new_run, check_vacant
from protokern.runs.forbidden import Forbidden, read_forbidden
from protokern.storage.names import one_line

NET_OF = "net_of"  # in run.toml beside the versions that wrote it: the run whose net it began with
# The learnt layers need no warm-up, and the prototypes are there. `--set` may ask for both.
_BEGINS_WITH = {"train": {"warm_epochs": 0, "prototype_start": "kept"}}
# They decide which images are for training: others could have been trained on and be measured now.
_SPLIT_BY = ("train.seed", "data.val_fraction", "data.test_fraction")


def read_source(path: Path | str) -> Checkpoint:
    """The checkpoint whose net a new run begins with: that of the folder, or the latest one of the run folder.

    Raises:
        CheckpointError: there is none, or it is broken.
    """
    return read_checkpoint(find_checkpoint(Path(path)))


def path_of(source: Checkpoint) -> str:
    """The run folder of a checkpoint as text that a TOML file can hold."""
    return str(run_folder(source.folder).resolve()).encode("utf-8", "backslashreplace").decode()


def continued_config(
    source: Checkpoint, file: str | None, changes: Sequence[str], data: str | None, recipe: str | None = None
) -> RunConfig:
    """The configuration of a new run that begins with the net of `source`.

    Args:
        source: whose settings it has where nothing else is said.
        file: of settings, TOML, which come over those; None: none.
        changes: `--set`s, which come over all.
        data: a data folder instead of that of the source.
        recipe: its settings of training and pruning come over those of the source, and below those of the file.

    Raises:
        ConfigError: the settings are wrong, would change the net, or would mix training and validation images.
    """
    before = with_old_defaults(source.state.config)
    trained = parse_config(before)
    table = changed_tables(before, file, changes, recipe, _BEGINS_WITH)
    config = with_absolute_store(with_data(parse_config(table), data))
    for key in differing_keys(trained, config):
        if key.partition(".")[0] == "model" or key == "data.channels":
            raise ConfigError(f"{key}: cannot be changed with --resume-from, which keeps the net. Train a new one.")
        if key in _SPLIT_BY and config.data.path == trained.data.path:
            raise ConfigError(
                f"{key}: cannot be changed with --resume-from: images that the net was trained on would become "
                "validation images. Leave it out, or give other data by --data."
            )
    start = config.train.prototype_start
    if start == "random":
        raise ConfigError(
            'train.prototype_start: must be "kept" or "patches" with --resume-from, which begins with a trained net; '
            f'got "{start}". Leave it out.'
        )
    return config


def check_continued(folder: Path, config: RunConfig) -> None:
    """Raise unless a training with this configuration may begin in `folder`; as `new_config` of `runs.folder`."""
    check_vacant(folder)
    check_new_run(folder, config)


def check_can_go_on(model: PrototypeModel) -> None:
    """Raise a CheckpointError unless the training of a finished model can go on."""
    if model.pushes and not model.chooses and model.reasons == "points":
        return
    raise CheckpointError(
        "--resume-from: must be a run whose prototypes are patches with weights, of a ProtoPNet or a TesNet; got a "
        f"{type(model).__name__}. Train a new run."
    )


def sources_of(source: Checkpoint, config: RunConfig) -> PushResult | None:
    """Where the prototypes of the net come from, in the data of the new run; None: unknown until its first push.

    Args:
        source: that the run begins with.
        config: of the run.

    Raises:
        ConfigError: live epochs would come first, and the patches are unknown.
    """
    has_same_data = _has_data_of(source, config)
    push = source.state.push if has_same_data else None
    train = config.train
    if push is None and train.prototype_start == "kept" and train.warm_epochs + train.joint_epochs == 0:
        why = "whose prototypes are no patches yet" if has_same_data else "on other data"
        raise ConfigError(
            f"train.joint_epochs: must be at least 1 to go on with a run {why}; got 0. Set it, or set "
            'train.prototype_start = "patches".'
        )
    return push


def _has_data_of(source: Checkpoint, config: RunConfig) -> bool:
    changed = differing_keys(parse_config(with_old_defaults(source.state.config)), config)
    return not any(key == "data.path" or key.startswith("data.birds_") for key in changed)


def split_folder(source: Checkpoint, config: RunConfig) -> Path | None:
    """The run folder whose split of class folders alone the new run has; None: it has other data."""
    return run_folder(source.folder) if _has_data_of(source, config) else None


def forbidden_of(source: Checkpoint) -> Forbidden | None:
    """The forbidden places of the run of a checkpoint; a CheckpointError if their file is broken."""
    return read_forbidden(run_folder(source.folder))


def refuse_lost_start(folder: Path) -> None:
    """Raise a CheckpointError if the run in `folder`, which has no checkpoint, was to begin with another one's net."""
    made_by = read_toml(folder / RUN_FILE).get(MADE_BY)
    if isinstance(made_by, dict) and NET_OF in made_by:
        source = one_line(str(made_by[NET_OF]))
        raise CheckpointError(
            f"--resume: {folder} has no checkpoint yet, and was to begin with the net of {source}. "
            "Give --resume-from instead."
        )


def refuse_kept_start(config: RunConfig) -> RunConfig:
    """The configuration of a run from scratch; a ConfigError if it wants to keep prototypes that there are not."""
    if config.train.prototype_start == "kept":
        raise ConfigError(
            'train.prototype_start: must be "random" or "patches" for a new net; got "kept", as a run has that went on '
            "with another one. Set it, or give that other run by --resume-from."
        )
    return config
