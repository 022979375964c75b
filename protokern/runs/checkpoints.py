"""Checkpoints of a run folder: the only place that writes weights.

    RUN/checkpoints/latest.json              names of the checkpoints, see checkpoint_index.py
    RUN/checkpoints/<stage>-<epoch>/
        model.safetensors                    weights; its metadata hold the configuration and the classes
        state.json                           configuration, classes, push result, progress, checksums of the other files
        resume.safetensors                   optimizer and random-number states, in the checkpoints that may be resumed

A checkpoint is written under a temporary name, synced and renamed, and only then named in latest.json. From then on it
is never written again: under a name that is taken, another one gets a number behind it. Kept are the two newest, the
best joint (or hardening) one since the last push, the best one of a live stage at work, and those after a push, a
last-layer or a pruning stage; of the kept ones only the two newest and the best ones keep their resume.safetensors. A
folder in which somebody else put something stays.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from protokern.errors import CheckpointError, ProtokernError
from protokern.models.base import PrototypeModel
from protokern.push import PushResult
from protokern.runs.checkpoint_index import CheckpointIndex, checkpoint_folder, read_index, write_index
from protokern.storage.files import read_file, read_table, remove_folder, seal, sha256, to_json_bytes, write_folder
from protokern.storage.lock import remove_leftovers

FORMAT = "protokern-checkpoint-2"
WEIGHTS_FILE, STATE_FILE, RESUME_FILE = "model.safetensors", "state.json", "resume.safetensors"
KEPT_STAGES = ("push", "last_layer", "prune", "pruned_last_layer")
NUM_NEWEST = 2
_SLACK = 16 * 2**20  # bytes of a tensor file beside what its tensors need: names, and the classes
# What Python says of a table that lacks something, or holds something else than was written.
BROKEN = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointState:
    """What a checkpoint holds beside tensors.

    Attributes:
        config: the run's whole configuration, as tables.
        classes: class names, in the order of the logits.
        stage: that the checkpoint follows.
        epoch: training epoch.
        push: where the prototypes come from; None before the first push.
        progress: where the training stands, as a table; None when another command wrote the checkpoint.
    """

    config: dict[str, Any]
    classes: tuple[str, ...]
    stage: str
    epoch: int
    push: PushResult | None = None
    progress: dict[str, Any] | None = None


def save_checkpoint(
    run_dir: Path,
    name: str,
    model: PrototypeModel,
    state: CheckpointState,
    *,
    resume: Mapping[str, Tensor] | None = None,
    keep: Collection[str] = (),
    is_numbered: bool = False,
) -> Path:
    """Write a checkpoint, make it the latest, and remove those that are no longer needed.

    Args:
        run_dir: the run folder.
        name: of the checkpoint's folder; a number is added if there is one of that name.
        model: whose weights are written.
        state: see CheckpointState.
        resume: optimizer and random-number states; None: this checkpoint does not change where training resumes.
        keep: names of checkpoints that training comes back to when it goes on from this one. They stay, with all they
            hold, until one with `resume` names others.
        is_numbered: the name gets a number behind it, from 2 on, also where it is free.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: the disk is full or refuses; the checkpoints before are whole.
    """
    index = read_index(run_dir)
    name = _free_name(run_dir, name, index.written, is_numbered=is_numbered)
    path = checkpoint_folder(run_dir, name)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(state.config),
        "classes": json.dumps(state.classes),
        "num_prototypes": str(model.num_prototypes),
    }
    files = {WEIGHTS_FILE: save_tensors(weights, metadata)}
    if resume is not None:
        files[RESUME_FILE] = save_tensors({key: value.cpu().contiguous() for key, value in resume.items()})
    files[STATE_FILE] = to_json_bytes(_state_table(state, model.num_prototypes, files))
    write_folder(path, files)
    index.written.append(name)
    index.latest = name
    if resume is not None:
        index.resume, index.needed = name, list(keep)
    write_index(run_dir, index)
    _remove_unneeded(run_dir, index)
    return path


def _free_name(run_dir: Path, name: str, written: Collection[str], *, is_numbered: bool) -> str:
    number, free = (2, f"{name}-2") if is_numbered else (1, name)
    while free in written or strangers_in(checkpoint_folder(run_dir, free)):
        number += 1
        free = f"{name}-{number}"
    return free


def strangers_in(checkpoint: Path) -> set[str]:
    """Names in a checkpoint's folder that no checkpoint has."""
    names = {path.name for path in checkpoint.iterdir()} if checkpoint.is_dir() else set()
    return names - {WEIGHTS_FILE, STATE_FILE, RESUME_FILE}


def _state_table(state: CheckpointState, num_prototypes: int, files: Mapping[str, bytes]) -> dict[str, Any]:
    push = state.push
    table = {
        "format": FORMAT,
        "stage": state.stage,
        "epoch": state.epoch,
        "num_prototypes": num_prototypes,
        "classes": list(state.classes),
        "config": state.config,
        "push": None if push is None else push_to_table(push),
        "progress": state.progress,
        "files": {name: sha256(content) for name, content in files.items()},
    }
    return seal(table)


def push_to_table(push: PushResult) -> dict[str, Any]:
    """A push result as JSON holds it; the distance of a prototype without any patch is null."""
    return {
        "image": push.image.tolist(),
        "patch": push.patch.tolist(),
        "distance": [value if value < float("inf") else None for value in push.distance.tolist()],
        "label": push.label.tolist(),
        "grid": list(push.grid),
    }


def push_from_table(table: Mapping[str, Any]) -> PushResult:
    """The opposite of `push_to_table`."""
    distance = [float("inf") if value is None else value for value in table["distance"]]
    return PushResult(
        image=torch.tensor(table["image"], dtype=torch.int64),
        patch=torch.tensor(table["patch"], dtype=torch.int64),
        distance=torch.tensor(distance),
        label=torch.tensor(table["label"], dtype=torch.int64),
        grid=tuple(table["grid"]),
    )


def _remove_unneeded(run_dir: Path, index: CheckpointIndex) -> None:
    """Remove what the rule at the top of this file does not keep. Killed in between, it goes on after the next one."""
    whole = {*index.written[-NUM_NEWEST:], *index.needed, index.resume, index.latest}
    kept = []
    for name in index.written:
        path = checkpoint_folder(run_dir, name)
        if name in whole:
            kept.append(name)
        elif name.partition("-")[0] in KEPT_STAGES:
            kept.append(name)
            (path / RESUME_FILE).unlink(missing_ok=True)
        elif strangers_in(path):
            kept.append(name)  # what somebody put there is not ours to remove
        else:
            remove_folder(path)
    index.written = kept
    write_index(run_dir, index)
    remove_leftovers(run_dir)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` means: itself, or the latest one of the run folder `path`.

    Raises:
        CheckpointError: there is none.
    """
    if (path / STATE_FILE).is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"{path}: must be a run folder or a checkpoint; it does not exist.")
    latest = read_index(path).latest
    if latest is None:
        raise CheckpointError(f"{path}: must be a run folder with a checkpoint; it has none. Train first.")
    return checkpoint_folder(path, latest)


def run_folder(checkpoint: Path) -> Path:
    """The run folder of a checkpoint's folder; that folder itself if it is in none."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint


def find_resumable(run_dir: Path) -> Path | None:
    """The checkpoint from which training goes on; None when there is none yet."""
    name = read_index(run_dir).resume
    return None if name is None else checkpoint_folder(run_dir, name)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose state.json was read and found whole; see `read_checkpoint`.

    Attributes:
        folder: where it is.
        state: what it holds beside tensors.
        checksums: of its other files, by name, as state.json says; None: of a file that a version wrote without one.
    """

    folder: Path
    state: CheckpointState
    checksums: Mapping[str, str | None]

    def load_weights(self, model: PrototypeModel) -> None:
        """Put the weights into a model of the same kind, after dropping prototypes that were pruned.

        Raises:
            CheckpointError: missing or broken weights, or of another model.
        """
        weights = self.read_tensors(WEIGHTS_FILE, at_most=size_in_bytes(model))
        prototypes = weights.get("prototype_layer.prototypes")
        if prototypes is not None and prototypes.dim() and 0 < len(prototypes) < model.num_prototypes:
            model.keep_prototypes(torch.arange(len(prototypes)))
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise CheckpointError(f"{self.folder}: the weights do not fit the model: {reason}") from error

    def read_tensors(self, name: str, *, at_most: int) -> dict[str, Tensor]:
        """All tensors of the file `name`, once its bytes are seen to be those that were written.

        Args:
            name: of the file.
            at_most: bytes that the tensors may need.

        Raises:
            CheckpointError: missing, too large, broken or changed.
        """
        path = self.folder / name
        content = read_file(path, at_most + _SLACK)
        try:
            expected = self.checksums[name]
        except (KeyError, TypeError) as error:
            raise broken_state(self.folder, error) from error
        if expected is not None and expected != sha256(content):
            raise CheckpointError(
                f"{path}: is not whole: its checksum differs from what was written. Go back to an older checkpoint."
            )
        try:
            tensors: dict[str, Tensor] = load_tensors(content)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: is not whole ({error}).") from error
        return tensors


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read what a checkpoint holds beside tensors; those are read when they are wanted.

    Raises:
        CheckpointError: missing, broken or of another format.
    """
    table = read_table(folder / STATE_FILE, FORMAT, sealed_from=2)
    try:
        state = CheckpointState(
            config=table["config"],
            classes=tuple(table["classes"]),
            stage=table["stage"],
            epoch=table["epoch"],
            push=None if table["push"] is None else push_from_table(table["push"]),
            progress=table["progress"],
        )
    except ProtokernError:
        raise
    except BROKEN as error:
        raise broken_state(folder, error) from error
    return Checkpoint(folder, state, table.get("files", dict.fromkeys((WEIGHTS_FILE, RESUME_FILE))))


def broken_state(checkpoint: Path, error: Exception) -> CheckpointError:
    """What is said of a state.json that lacks something, or holds something else than was written."""
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return CheckpointError(f"{checkpoint / STATE_FILE}: must say what a checkpoint holds; it is broken ({reason}).")


def size_in_bytes(model: PrototypeModel) -> int:
    """Of all tensors of a model's state."""
    return sum(value.nbytes for value in model.state_dict().values())
