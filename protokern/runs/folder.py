"""The run folder: whether a run may begin in it, and its run.toml, which a new run writes and a resumed run checks."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

import protokern
from protokern.config import RunConfig, config_to_dict, config_to_toml, differing_keys, load_config, parse_config
from protokern.config.run import (
    LARGEST_CONFIG,
    MADE_BY,
    RUN_FORMAT,
    feature_store,
    with_absolute_store,
    with_data,
    with_old_defaults,
)
from protokern.data.places import name_of
from protokern.errors import CheckpointError, ConfigError, ProtokernError
from protokern.features import check_store_place
from protokern.recipes.sizes import SIZED, SIZED_KEYS
from protokern.runs.checkpoint_index import INDEX_FILE, checkpoint_folder, checkpoints_folder, read_index, remove_index
from protokern.runs.checkpoints import Checkpoint, strangers_in
from protokern.runs.data import data_folder
from protokern.runs.forbidden import FORBIDDEN_FILE, is_forbidden_file
from protokern.runs.outputs import KEPT_FOLDERS, check_outside_data, is_inside
from protokern.runs.split import SPLIT_FILE, is_own_split_file
from protokern.storage.files import read_file, remove_folder
from protokern.storage.names import fit_name, left_by_a_dead_process, longest_name
from protokern.storage.outputs import Outputs, check_whole_folder, claim_outputs

RUN_FILE = "run.toml"
RUNS = Path("runs")  # where a run goes that was given no folder
FIRST_CHECKPOINT = "init-0"
PAGE = "index.html"
IMPORT_FILE = "imported.json"  # what a run that was imported has instead of a training
PROTOTYPES = "prototypes"  # the name under which all commands that write RUN/prototypes list its files
_OF_PROTOTYPES = re.compile(r"prototypes\.json|\d{4,}-(image|box|heat)\.png")
_BEGUN = (RUN_FILE, "log.jsonl", "checkpoints", "features")  # what exists before the first step is done
_PLACES = (RUN_FILE, "log.jsonl", "metrics.json", SPLIT_FILE, FORBIDDEN_FILE, *KEPT_FOLDERS)
# Written before run.toml, so a killed training may have left only these.
_WRITTEN_FIRST = {SPLIT_FILE: is_own_split_file, FORBIDDEN_FILE: is_forbidden_file}
# Where the images are, how they are read and how a step is computed may change between a run and its resumption.
_MAY_CHANGE_ON_RESUME = (
    "data.path",
    "data.workers",
    "data.cache",
    "data.max_image_pixels",
    "data.feature_store",
    "train.accumulation",
    "train.compile",
)


def check_new_run(folder: Path, config: RunConfig) -> None:
    """Raise unless a training with this configuration may begin in the vacant `folder`; this changes nothing.

    Raises:
        CheckpointError: the folder or its folder for features lies among the data, or the data lie where the run will
            write.
        DataError: the place for the features is taken.
    """
    check_outside_data(folder, config, "--out")
    data = data_folder(config)
    for name in KEPT_FOLDERS:
        if data is not None and is_inside(data, folder / name):
            raise CheckpointError(
                f"--out: must not be a folder whose {name}/ holds the data {data}, for the run writes there; "
                f"got {folder}. Give another folder."
            )
    _check_feature_store(folder, config)


def check_vacant(folder: Path) -> None:
    """Raise a CheckpointError if `folder` holds a run, or other files in the places where a run writes."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise CheckpointError(f"--out: must be a folder; got the file {folder}. Choose another name.")
    has_begun = got_nowhere(folder)
    if not has_begun and ((folder / RUN_FILE).exists() or (folder / "checkpoints").exists()):
        raise CheckpointError(
            f"--out: {folder} already holds a run. Go on with it by --resume, or choose another folder."
        )
    for name in _PLACES:
        if name == "features" or (has_begun and name in _BEGUN) or not _is_taken(folder / name):
            continue  # features/ is checked by the code that writes there
        if name in _WRITTEN_FIRST and _WRITTEN_FIRST[name](folder / name):
            continue
        raise CheckpointError(
            f"--out: must hold nothing where the files of a run will be; got {folder}, which has {name}. "
            "Choose another folder."
        )


def _is_taken(path: Path) -> bool:
    """Whether the path holds anything; an empty folder does not."""
    is_folder = path.is_dir() and not path.is_symlink()
    return any(path.iterdir()) if is_folder else os.path.lexists(path)


def _check_feature_store(folder: Path, config: RunConfig) -> None:
    """Raise unless the features of a frozen backbone may be written where the configuration says.

    Raises:
        CheckpointError: the place is among the data.
        DataError: the place is taken.
    """
    if config.train.backbone != "frozen":
        return
    store = feature_store(config)
    if store is not None:
        check_outside_data(store, config, "data.feature_store")
    for split in ("train", "val", "test"):
        check_store_place((store or folder / "features") / split)


def check_results(folder: Path) -> None:
    """Raise a CheckpointError unless the prototypes and the page of the run in `folder` may be replaced."""
    check_prototypes_folder(folder)
    claim_page(folder)


def check_prototypes_folder(folder: Path) -> None:
    """Raise a CheckpointError if RUN/prototypes holds files of others, which replacing it would remove."""
    check_whole_folder(folder / "prototypes", PROTOTYPES, lambda name: _OF_PROTOTYPES.fullmatch(name) is not None)


def claim_page(folder: Path) -> Outputs:
    """Where the page of the run in `folder` goes; a CheckpointError if another file has its name."""
    report = folder / "report"
    return claim_outputs(report, [PAGE], by="report", argument=str(report), trusts_unlisted=True)


def got_nowhere(folder: Path) -> bool:
    """Whether `folder` holds a training that did not finish its first step, so that nothing of value can be lost.

    Its run.toml must be as it was written, and its only checkpoint that of the first weights.
    """
    if not is_as_written(folder / RUN_FILE):
        return False
    checkpoints = checkpoints_folder(folder)
    try:
        index = read_index(folder)
    except ProtokernError:
        return False
    names = {path.name for path in checkpoints.iterdir()} if checkpoints.is_dir() else set()
    others = {name for name in names if left_by_a_dead_process(name) is None} - {FIRST_CHECKPOINT, INDEX_FILE}
    return not (others or strangers_in(checkpoints / FIRST_CHECKPOINT)) and {*index.written} <= {FIRST_CHECKPOINT}


def is_as_written(run_file: Path) -> bool:
    """Whether a run.toml is what `train` wrote, so that replacing it loses no change made by hand."""
    if run_file.is_symlink() or not run_file.is_file():
        return False
    try:
        text = read_file(run_file, LARGEST_CONFIG).decode("utf-8")
        made_by = tomllib.loads(text).get(MADE_BY, {})
        return made_by.get("format") == RUN_FORMAT and config_to_toml(load_config(run_file), made_by) == text
    except (ProtokernError, ValueError, AttributeError, RecursionError):
        return False


def forget_first_checkpoint(folder: Path) -> None:
    """Remove the first checkpoint of a training that did not finish its first step."""
    if checkpoints_folder(folder).is_dir():
        remove_index(folder)
        remove_folder(checkpoint_folder(folder, FIRST_CHECKPOINT))


@contextmanager
def unnamed_folder(config: RunConfig) -> Iterator[Path]:
    """Make the folder of a run that was given none: runs/NAME-N, with the name of the data and the first free number.

    The folder is made at once, so that no other process takes the same one. At the end of the block it is removed if it
    is still empty.

    Raises:
        CheckpointError: the folder would lie among the data, or the data in a place where the run writes.
        DataError: the place for the features is taken.
    """
    was_there = RUNS.exists()
    for number in count(1):
        folder = RUNS / fit_name(name_of(config.data.path), f"-{number}", longest_name(RUNS))
        if os.path.lexists(folder):
            continue
        check_new_run(folder, config)  # before there is a folder among the data
        RUNS.mkdir(exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:  # another process has come first
            continue
        break
    try:
        yield folder
    finally:
        with suppress(OSError):  # a folder with files stays
            folder.rmdir()
            if not was_there:
                RUNS.rmdir()


def new_config(
    folder: Path,
    file: str | None,
    changes: Sequence[str],
    data: str | None,
    recipe: str | None = None,
    sizes: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunConfig:
    """The configuration of a run that may begin in `folder`.

    Args:
        folder: need not exist.
        file: of settings, TOML; None: the defaults.
        changes: `--set`s.
        data: a data folder instead of that of the settings.
        recipe, sizes: what the settings begin with, see `load_config`.

    Raises:
        ConfigError: the settings are wrong.
        CheckpointError: the folder holds a run, or other files in the places where a run writes.
        DataError: the place for the features is taken.
    """
    check_vacant(folder)
    config = with_absolute_store(with_data(load_config(file, changes, recipe, sizes), data))
    check_new_run(folder, config)
    return config


def resumed_config(
    folder: Path, file: str | None, changes: Sequence[str], data: str | None, recipe: str | None = None
) -> RunConfig:
    """The configuration of the run in `folder`. The arguments are those of `new_config`, and must agree with the run.

    Sizes that follow the data are those of the run.

    Raises:
        ConfigError: an argument does not agree with the run.
        CheckpointError: the folder holds no run.
    """
    run_file = folder / RUN_FILE
    if not run_file.exists():
        raise CheckpointError(f"--resume: {folder} has no {RUN_FILE}, so no run to go on with. Leave out --resume.")
    if (folder / IMPORT_FILE).exists():
        raise CheckpointError(
            f"--resume: {folder} holds an imported network, and no training to go on with. Use push, prune and the "
            "other commands, or train a new run."
        )
    before = load_config(run_file)
    given = file if file or recipe else run_file
    config = with_data(load_config(given, changes, recipe, _sizes_of(before, recipe)), data or before.data.path or None)
    check_results(folder)
    if config.data.grey_range == "auto":  # it was measured when the run began
        config = replace(config, data=replace(config.data, grey_range=before.data.grey_range))
    changed = [key for key in differing_keys(before, config) if key not in _MAY_CHANGE_ON_RESUME]
    if changed:
        old, new = (_value_of(one, changed[0]) for one in (before, config))
        raise ConfigError(
            f"{changed[0]}: must stay {old!r}, as in {run_file}, to resume; got {new!r}. "
            "Leave it out, or start a new run in another folder."
        )
    return with_absolute_store(config)


def _sizes_of(run: RunConfig, recipe: str | None) -> dict[str, dict[str, Any]]:
    """The sizes that followed the data when the run began by the recipe."""
    if recipe != SIZED:
        return {}
    tables = config_to_dict(run)
    return {
        table: {key: tables[table][key] for key in keys if key in tables[table]} for table, keys in SIZED_KEYS.items()
    }


def check_agreement(run_file: Path, config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raise a CheckpointError unless a run.toml says what a checkpoint was trained with.

    A run.toml that was changed, by hand or by a failing disk, would silently continue with other settings.
    """
    trained = parse_config(with_old_defaults(checkpoint.state.config))
    changed = [key for key in differing_keys(trained, config) if key not in _MAY_CHANGE_ON_RESUME]
    if changed:
        old, new = (_value_of(one, changed[0]) for one in (trained, config))
        raise CheckpointError(
            f"{run_file}: must say what {checkpoint.folder.name} was trained with, {changed[0]} = {old!r}; "
            f"got {new!r}. Write it back, or start a new run in another folder."
        )


def _value_of(config: RunConfig, key: str) -> object:
    table, name = key.split(".")
    return config_to_dict(config)[table][name]


def versions() -> dict[str, str]:
    """What wrote a run: the version of the package, its commit if it is a checkout, and the versions it ran on."""
    made_by = {
        "protokern": protokern.__version__,
        "git": git_commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return {name: version for name, version in made_by.items() if version}


def git_commit() -> str:
    """The commit of the checkout that contains the package, with "+" if files differ; empty without a checkout."""
    root = Path(protokern.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
