"""Checkpoints of a run folder: the only place that writes weights.

    RUN/checkpoints/latest.json              names of the checkpoints, see checkpoint_index.py
    RUN/checkpoints/<stage>-<epoch>/
        model.safetensors                    weights; its metadata hold the configuration and the classes
        state.json                           configuration, classes, push result, progress, checksums of the other files
        resume.safetensors                   optimizer and random-number states, in the checkpoints that may be resumed

A checkpoint is written under a temporary name, synced and renamed, and only then named in latest.json. After that it is
never overwritten: if its name is taken, a new checkpoint gets a number at the end of the name. These are kept: the two
newest, the best joint (or hardening) epoch since the last push, the best epoch of the current live stage, and those
after a push, a last-layer or a pruning stage. Of these, only the two newest and the best ones keep their
resume.safetensors. A folder that contains files of others is never removed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
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
ENSEMBLE_FILE = "ensemble.toml"  # of a folder that names runs, see protokern.runs.ensemble
KEPT_STAGES = ("push", "exemplars", "last_layer", "prune", "pruned_last_layer")
NUM_NEWEST = 2
_SLACK = 16 * 2**20  # bytes of a tensor file besides its tensors: names and classes
# What Python raises for a table in which something is missing or has the wrong type.
BROKEN = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointState:
    """What a checkpoint holds besides tensors.

    Attributes:
        config: the run's whole configuration, as tables.
        classes: class names, in the order of the logits.
        stage: the stage after which the checkpoint was written.
        epoch: training epoch of the weights.
        push: where the prototypes come from; None before the first push.
        progress: how far the training is, as a table; None if another command wrote the checkpoint.
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
        name: of the checkpoint's folder; a number is added if the name is taken.
        model: whose weights are written.
        state: see CheckpointState.
        resume: optimizer and random-number states; None: this checkpoint does not change where training resumes.
        keep: names of checkpoints whose weights a training that resumes from this one may restore. Their folders stay
            complete until a checkpoint with `resume` names others.
        is_numbered: add a number, from 2 on, to the name even if it is free.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: the disk is full or not writable; earlier checkpoints stay complete.
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
    """Names of files in a checkpoint's folder that do not belong to a checkpoint."""
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
    """A push result as plain JSON values; the distance of a prototype that has no patch is null."""
    return {
        "image": push.image.tolist(),
        "patch": push.patch.tolist(),
        "distance": [value if value < float("inf") else None for value in push.distance.tolist()],
        "label": push.label.tolist(),
        "grid": list(push.grid),
    }


def push_from_table(table: Mapping[str, Any]) -> PushResult:
    """The push result that `push_to_table` turned into a table."""
    distance = [float("inf") if value is None else value for value in table["distance"]]
    return PushResult(
        image=torch.tensor(table["image"], dtype=torch.int64),
        patch=torch.tensor(table["patch"], dtype=torch.int64),
        distance=torch.tensor(distance),
        label=torch.tensor(table["label"], dtype=torch.int64),
        grid=tuple(table["grid"]),
    )


def _remove_unneeded(run_dir: Path, index: CheckpointIndex) -> None:
    """Remove what the rule at the top of this file does not keep; what a killed process left is removed next time."""
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
            kept.append(name)  # it contains files of others, which are not ours to remove
        else:
            remove_folder(path)
    index.written = kept
    write_index(run_dir, index)
    remove_leftovers(run_dir)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` means: `path` itself, or the latest checkpoint of the run folder `path`.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    if (path / STATE_FILE).is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"{path}: must be a run folder or a checkpoint; it does not exist.")
    if (path / ENSEMBLE_FILE).is_file():
        raise CheckpointError(
            f"{path}: must be one run here; got the folder of an ensemble, which evaluate, explain and report take. "
            "Give one of its members."
        )
    latest = read_index(path).latest
    if latest is None:
        raise CheckpointError(f"{path}: must be a run folder with a checkpoint; it has none. Train first.")
    return checkpoint_folder(path, latest)


def run_folder(checkpoint: Path) -> Path:
    """The run folder of a checkpoint's folder; the checkpoint's folder itself if it is outside of a run."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint


def find_resumable(run_dir: Path) -> Path | None:
    """The checkpoint from which training resumes; None if there is none yet."""
    name = read_index(run_dir).resume
    return None if name is None else checkpoint_folder(run_dir, name)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose state.json was read and is complete; see `read_checkpoint`.

    Attributes:
        folder: the checkpoint's folder.
        state: what the checkpoint holds besides tensors.
        checksums: of the other files by name, from state.json; None: an old version wrote the file without a checksum.
    """

    folder: Path
    state: CheckpointState
    checksums: Mapping[str, str | None]

    def load_weights(self, model: PrototypeModel) -> None:
        """Put the weights into a model of the same kind, after dropping prototypes that were pruned.

        Raises:
            CheckpointError: the weights are missing or broken, or belong to another model.
        """
        weights = self.read_tensors(WEIGHTS_FILE, at_most=size_in_bytes(model))
        model.fit_sizes(weights)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise CheckpointError(f"{self.folder}: the weights do not fit the model: {reason}") from error

    def read_tensors(self, name: str, *, at_most: int) -> dict[str, Tensor]:
        """All tensors of the file `name`, after its checksum was compared.

        Args:
            name: of the file.
            at_most: bytes that the tensors may need.

        Raises:
            CheckpointError: the file is missing, too large, broken or changed.
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
    """Read what a checkpoint holds besides tensors; tensors are read when they are needed.

    Raises:
        CheckpointError: state.json is missing, broken or of another format.
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


def broken_state(checkpoint: Path, error: Exception, name: str = STATE_FILE) -> CheckpointError:
    """The error for a state.json, or the file `name`, in which something is missing or has the wrong type."""
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return CheckpointError(f"{checkpoint / name}: must say what a checkpoint holds; it is broken ({reason}).")


@contextmanager
def translate_broken_states(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what Python raises for broken states of the optimizer or the generators into a CheckpointError."""
    try:
        yield
    except ProtokernError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(
            f"{checkpoint.folder / RESUME_FILE}: must hold the states of the optimizer and the generators; it is "
            f"broken ({reason})."
        ) from error


def size_in_bytes(model: PrototypeModel) -> int:
    """The bytes of all tensors of a model's state."""
    return sum(value.nbytes for value in model.state_dict().values())
