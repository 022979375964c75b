"""Checkpoints of a run folder: the only place that writes weights.

    RUN/checkpoints/latest.json              names of the checkpoints, in the order of writing
    RUN/checkpoints/<stage>-<epoch>/
        model.safetensors                    weights; its metadata hold the configuration and the classes
        state.json                           configuration, classes, push result, progress of the run
        resume.safetensors                   optimizer and random-number states, in the checkpoints that may be resumed

A checkpoint is written under a temporary name, synced and renamed, and only then named in latest.json. Kept are the two
newest, the best joint (or hardening) one since the last push, and those after a push, a last-layer or a pruning stage;
of the kept ones only the two newest and the best joint one keep their resume.safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from protokern.errors import CheckpointError
from protokern.models.base import PrototypeModel
from protokern.models.registry import MODELS
from protokern.models.settings import ModelConfig
from protokern.push import PushResult
from protokern.train.build import build_untrained
from protokern.train.files import read_json, remove_folder, to_json_bytes, write_file, write_folder

FORMAT = "protokern-checkpoint-1"
KEPT_STAGES = ("push", "last_layer", "prune", "pruned_last_layer")
NUM_NEWEST = 2


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


def checkpoints_folder(run_dir: Path) -> Path:
    """Where a run's checkpoints are."""
    return run_dir / "checkpoints"


def save_checkpoint(
    run_dir: Path,
    name: str,
    model: PrototypeModel,
    state: CheckpointState,
    *,
    resume: Mapping[str, Tensor] | None = None,
    keep: Collection[str] = (),
) -> Path:
    """Write a checkpoint, make it the latest, and remove those that are no longer needed.

    Args:
        run_dir: the run folder.
        name: of the checkpoint's folder.
        model: whose weights are written.
        state: see CheckpointState.
        resume: optimizer and random-number states; None: this checkpoint does not change where training resumes.
        keep: names of checkpoints that must stay, with all they hold.

    Raises:
        CheckpointError: the disk is full or refuses; the checkpoints before are whole.
    """
    path = checkpoints_folder(run_dir) / name
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(state.config),
        "classes": json.dumps(state.classes),
        "num_prototypes": str(model.num_prototypes),
    }
    files = {
        "model.safetensors": save_tensors(weights, metadata),
        "state.json": to_json_bytes(_state_table(state, model.num_prototypes)),
    }
    if resume is not None:
        files["resume.safetensors"] = save_tensors({key: value.cpu().contiguous() for key, value in resume.items()})
    write_folder(path, files)
    index = _read_index(run_dir)
    index["written"] = [other for other in index["written"] if other != name] + [name]
    index["latest"] = name
    if resume is not None:
        index["resume"] = name
    write_file(checkpoints_folder(run_dir) / "latest.json", to_json_bytes(index))
    _remove_unneeded(run_dir, {*keep, index["resume"]})
    return path


def _state_table(state: CheckpointState, num_prototypes: int) -> dict[str, Any]:
    push = state.push
    return {
        "format": FORMAT,
        "stage": state.stage,
        "epoch": state.epoch,
        "num_prototypes": num_prototypes,
        "classes": list(state.classes),
        "config": state.config,
        "push": None if push is None else push_to_table(push),
        "progress": state.progress,
    }


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


def _read_index(run_dir: Path) -> dict[str, Any]:
    path = checkpoints_folder(run_dir) / "latest.json"
    if not path.exists():
        return {"latest": None, "resume": None, "written": []}
    index: dict[str, Any] = read_json(path)
    return index


def _remove_unneeded(run_dir: Path, keep: Collection[str]) -> None:
    folder = checkpoints_folder(run_dir)
    index = _read_index(run_dir)
    whole = {*index["written"][-NUM_NEWEST:], *keep}
    kept = []
    for name in index["written"]:
        path = folder / name
        if name in whole:
            kept.append(name)
        elif name.partition("-")[0] in KEPT_STAGES:
            kept.append(name)
            (path / "resume.safetensors").unlink(missing_ok=True)
        else:
            remove_folder(path)
    write_file(folder / "latest.json", to_json_bytes({**index, "written": kept}))
    for leftover in (*folder.glob(".*.tmp"), *folder.glob(".*.old")):  # of a run that was killed while writing
        if leftover.is_dir():
            remove_folder(leftover)
        else:
            leftover.unlink()


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` means: itself, or the latest one of the run folder `path`.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "state.json").is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"{path}: must be a run folder or a checkpoint; it does not exist.")
    latest = _read_index(path)["latest"]
    if latest is None:
        raise CheckpointError(f"{path}: must be a run folder with a checkpoint; it has none. Train first.")
    return checkpoints_folder(path) / latest


def find_resumable(run_dir: Path) -> Path | None:
    """The checkpoint from which training goes on; None when there is none yet."""
    name = _read_index(run_dir)["resume"]
    return None if name is None else checkpoints_folder(run_dir) / name


def read_state(checkpoint: Path) -> CheckpointState:
    """What a checkpoint holds beside tensors.

    Raises:
        CheckpointError: missing, broken or of another format.
    """
    table = read_json(checkpoint / "state.json")
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise CheckpointError(f"{checkpoint}: must be of format {FORMAT}; it was written by another version.")
    return CheckpointState(
        config=table["config"],
        classes=tuple(table["classes"]),
        stage=table["stage"],
        epoch=table["epoch"],
        push=None if table["push"] is None else push_from_table(table["push"]),
        progress=table["progress"],
    )


def load_model(path: Path | str) -> tuple[PrototypeModel, dict[str, Any], tuple[str, ...]]:
    """Rebuild a trained model from a run folder (its latest checkpoint) or a checkpoint folder; on the CPU, evaluating.

    No other file is read than the checkpoint's.

    Returns:
        The model, the run's configuration as tables, and the class names.

    Raises:
        CheckpointError: no such checkpoint, or a broken one.
    """
    checkpoint = find_checkpoint(Path(path))
    state = read_state(checkpoint)
    image_size = _as_tuple(state.config["data"]["image_size"])
    model = build_untrained(_model_config(checkpoint, state.config["model"]), len(state.classes), image_size)
    load_weights(model, checkpoint)
    return model.eval(), state.config, state.classes


def _model_config(checkpoint: Path, table: Mapping[str, Any]) -> ModelConfig:
    """The settings of a checkpoint's model; one of a newer version may have others than this one."""
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


def load_weights(model: PrototypeModel, checkpoint: Path) -> None:
    """Put a checkpoint's weights into a model of the same kind, after dropping prototypes that were pruned.

    Raises:
        CheckpointError: missing or broken weights, or of another model.
    """
    weights = read_tensors(checkpoint / "model.safetensors")
    prototypes = weights.get("prototype_layer.prototypes")
    if prototypes is not None and len(prototypes) < model.num_prototypes:
        model.keep_prototypes(torch.arange(len(prototypes)))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"{checkpoint}: the weights do not fit the model: {reason}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        CheckpointError: missing or broken.
    """
    try:
        tensors: dict[str, Tensor] = load_tensors(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is not whole ({error}).") from error
    return tensors
