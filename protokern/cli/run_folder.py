"""The folder of a new run: whether it may become one, and how a training that got nowhere is begun anew in it."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from protokern.cli.out_folders import KEPT_FOLDERS, check_outside_data, is_inside
from protokern.cli.own_split_file import SPLIT_FILE, is_own_split_file
from protokern.cli.runs import data_folder, feature_store
from protokern.config import RunConfig, config_to_toml, load_config
from protokern.config.run import LARGEST_CONFIG, MADE_BY, RUN_FORMAT
from protokern.errors import CheckpointError, ProtokernError
from protokern.features import check_store_place
from protokern.storage.files import read_file, remove_folder
from protokern.storage.names import left_by_a_dead_process
from protokern.storage.outputs import Outputs, check_whole_folder, claim_outputs
from protokern.train.checkpoint import strangers_in
from protokern.train.checkpoint_index import checkpoint_folder, checkpoints_folder, read_index, remove_index

RUN_FILE = "run.toml"
FIRST_CHECKPOINT = "init-0"
PAGE = "index.html"
PROTOTYPES = "prototypes"  # who writes RUN/prototypes: several commands do
_OF_PROTOTYPES = re.compile(r"prototypes\.json|\d{4,}-(image|box|heat)\.png")
_BEGUN = (RUN_FILE, "log.jsonl", "checkpoints", "features")  # what there is before the first step is done
_PLACES = (RUN_FILE, "log.jsonl", "metrics.json", SPLIT_FILE, *KEPT_FOLDERS)


def check_new_run(folder: Path, config: RunConfig) -> None:
    """Raise unless a training with this configuration may begin in `folder`, which is vacant; nothing is changed.

    Raises:
        CheckpointError: the folder, or the one for features, lies among the data, or the data where the run will write.
        DataError: something else is where the features will be.
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
    """Raise a CheckpointError if `folder` holds a run, or files of others where those of a run will be."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise CheckpointError(f"--out: must be a folder; got the file {folder}. Choose another name.")
    has_begun = got_nowhere(folder)
    if not has_begun and ((folder / RUN_FILE).exists() or (folder / "checkpoints").exists()):
        raise CheckpointError(
            f"--out: {folder} already holds a run. Go on with it by --resume, or choose another folder."
        )
    for name in _PLACES:
        if name == "features" or (has_begun and name in _BEGUN) or not _is_taken(folder / name):
            continue  # what is in features/ is looked at by those who write there
        if name == SPLIT_FILE and is_own_split_file(folder / name):
            continue  # it is written before run.toml, so it may be all that a killed training left
        raise CheckpointError(
            f"--out: must hold nothing where the files of a run will be; got {folder}, which has {name}. "
            "Choose another folder."
        )


def _is_taken(path: Path) -> bool:
    """Whether something is there; an empty folder is nothing."""
    is_folder = path.is_dir() and not path.is_symlink()
    return any(path.iterdir()) if is_folder else os.path.lexists(path)


def _check_feature_store(folder: Path, config: RunConfig) -> None:
    """Raise unless the features of a frozen backbone may be written where the configuration says.

    Raises:
        CheckpointError: it is among the data.
        DataError: something else is there.
    """
    if config.train.backbone != "frozen":
        return
    store = feature_store(config)
    if store is not None:
        check_outside_data(store, config, "data.feature_store")
    for split in ("train", "val", "test"):
        check_store_place((store or folder / "features") / split)


def check_results(folder: Path) -> None:
    """Raise a CheckpointError unless the prototypes and the page of the run in `folder` may be written anew."""
    check_prototypes_folder(folder)
    claim_page(folder)


def check_prototypes_folder(folder: Path) -> None:
    """Raise a CheckpointError if RUN/prototypes holds anything that would be lost as it is written anew."""
    check_whole_folder(folder / "prototypes", PROTOTYPES, lambda name: _OF_PROTOTYPES.fullmatch(name) is not None)


def claim_page(folder: Path) -> Outputs:
    """Where the page of the run in `folder` goes; a CheckpointError if there is one of somebody else."""
    report = folder / "report"
    return claim_outputs(report, [PAGE], by="report", argument=str(report), trusts_unlisted=True)


def got_nowhere(folder: Path) -> bool:
    """Whether `folder` holds a training that was begun, but not one step of it was done: nothing of it can be lost.

    Its run.toml must be as it was written, and there must be no other checkpoint than that of the first weights.
    """
    if not is_as_written(folder / RUN_FILE):
        return False
    checkpoints = checkpoints_folder(folder)
    try:
        index = read_index(folder)
    except ProtokernError:
        return False
    names = {path.name for path in checkpoints.iterdir()} if checkpoints.is_dir() else set()
    others = {name for name in names if left_by_a_dead_process(name) is None} - {FIRST_CHECKPOINT, "latest.json"}
    return not (others or strangers_in(checkpoints / FIRST_CHECKPOINT)) and {*index.written} <= {FIRST_CHECKPOINT}


def is_as_written(run_file: Path) -> bool:
    """Whether a run.toml is what `train` wrote, without a change by hand that would be lost."""
    if run_file.is_symlink() or not run_file.is_file():
        return False
    try:
        text = read_file(run_file, LARGEST_CONFIG).decode("utf-8")
        made_by = tomllib.loads(text).get(MADE_BY, {})
        return made_by.get("format") == RUN_FORMAT and config_to_toml(load_config(run_file), made_by) == text
    except (ProtokernError, ValueError, AttributeError, RecursionError):
        return False


def forget_first_checkpoint(folder: Path) -> None:
    """Make way for a training in a folder where one got nowhere."""
    if checkpoints_folder(folder).is_dir():
        remove_index(folder)
        remove_folder(checkpoint_folder(folder, FIRST_CHECKPOINT))
