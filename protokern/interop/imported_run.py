"""The run folder of an imported network, and what images say about it: accuracy, and whether prototypes are patches."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import torch

from protokern.config import config_to_dict, config_to_toml
from protokern.config.run import RUN_FORMAT, with_data
from protokern.errors import ConfigError
from protokern.evaluate import evaluate
from protokern.inputs.loaders import ordered_loader
from protokern.models.base import PrototypeModel
from protokern.push import PushResult
from protokern.runs.checkpoints import CheckpointState, save_checkpoint
from protokern.runs.data import RunData, open_data
from protokern.runs.folder import IMPORT_FILE, RUN_FILE, check_new_run, check_vacant, versions
from protokern.runs.log import Notice, append_record
from protokern.runs.split import settle_own_split
from protokern.search import find_nearest_patches
from protokern.storage.files import to_json_bytes, write_file
from protokern.storage.lock import lock_run

from .loading import ReleasedNet

FORMAT = "protokern-import-1"
# Of squared distances as a share of a prototype's squared length: another machine rounds features otherwise.
_COPY = 1e-4


def with_images(net: ReleasedNet, images: str) -> tuple[ReleasedNet, RunData]:
    """The network after a look at images: its accuracy, and which of them its prototypes are patches of.

    Args:
        net: as loaded.
        images: a data folder; its classes are those of the network, in the same order.

    Raises:
        ConfigError: there are more or fewer classes, or other names than those that were given.
        DataError: the folder cannot be used.
    """
    config = with_data(net.config, images)
    splits = open_data(config)
    if len(splits.classes) != len(net.classes):
        raise ConfigError(
            f"--images: must have the {len(net.classes)} classes of the network; got {len(splits.classes)}. Give the "
            "data that it was trained on."
        )
    names = tuple(map(str, range(len(net.classes))))
    if net.classes not in (names, tuple(splits.classes)):
        raise ConfigError(
            "--images: must have the classes of --classes, in the same order; they differ. Leave out one."
        )
    config = replace(config, data=replace(config.data, grey_range=splits.grey_range))
    batch, workers = config.train.batch_size, config.data.workers
    with torch.no_grad():
        scores = evaluate(net.model, ordered_loader(splits.test, batch, workers), torch.device("cpu"))
    push, notes = _find_sources(net, splits, batch)
    notes = (f"accuracy on {scores.images} test images: {scores.accuracy:.4f}", *notes)
    found = replace(
        net, config=config, classes=tuple(splits.classes), notes=(*net.notes, *notes), push=push, scores=scores
    )
    return found, splits


def _find_sources(net: ReleasedNet, splits: RunData, batch: int) -> tuple[PushResult | None, tuple[str, ...]]:
    """Which training patches the prototypes are, None if not one of them is any; and what was found."""
    model = net.model
    loader = ordered_loader(splits.push, batch, 0)
    nearest = find_nearest_patches(model, loader, 1, own_class=model.pushes)
    found = PushResult(
        image=nearest.image[:, 0],
        patch=nearest.patch[:, 0],
        distance=nearest.distance[:, 0],
        label=nearest.label[:, 0],
        grid=nearest.grid,
    )
    if not model.pushes:
        return found, ("the training patches in which its prototypes are most present were found",)
    if _is_projected(model):
        return None, ("no sources: prototypes of a TesNet are directions; 'protokern push' finds patches for them",)
    copies = found.distance <= _COPY * _squared_lengths(model)
    total, count = len(copies), int(copies.sum())
    told = [f"{count} of {total} prototypes are patches of the training images, at a distance of 0"]
    if net.sources is not None:
        named = torch.tensor(net.sources.images)
        same = int(((found.image == named) & copies).sum())
        told.append(f"{same} of {total} are of the image that {net.sources.path.name} names")
    if count == 0:
        return None, tuple(told)
    known = replace(
        found,
        image=torch.where(copies, found.image, -1),
        patch=torch.where(copies, found.patch, -1),
        distance=torch.where(copies, found.distance, torch.inf),
        label=torch.where(copies, found.label, -1),
    )
    return known, tuple(told)


def _is_projected(model: PrototypeModel) -> bool:
    return getattr(model.prototype_layer, "metric", "") == "dot"


def _squared_lengths(model: PrototypeModel) -> torch.Tensor:
    vectors = model.prototype_layer.vectors
    assert vectors is not None
    return vectors.detach().flatten(1).square().sum(1).clamp_min(1e-6)


def check_place(folder: Path) -> None:
    """Raise a CheckpointError unless a run may begin in `folder`."""
    check_vacant(folder)


def write_run(net: ReleasedNet, folder: Path, splits: RunData | None = None) -> Path:
    """Write a run folder that all commands open, and return the folder of its checkpoint.

    Args:
        net: what to write.
        folder: need not exist; must hold no run.
        splits: the data that `with_images` opened.

    Raises:
        CheckpointError: the folder holds a run or other files in its places, lies among the data, or the disk is full.
    """
    check_vacant(folder)
    check_new_run(folder, net.config)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_run(folder):
        if splits is not None:
            settle_own_split(folder, splits.own_split)
        made_by = {"format": RUN_FORMAT, **versions(), "imported_from": net.system}
        write_file(folder / RUN_FILE, config_to_toml(net.config, made_by).encode())
        write_file(folder / IMPORT_FILE, to_json_bytes(_table(net)))
        for note in (f"imported: {net.system}, from {net.path.name}", *net.notes):
            append_record(folder / "log.jsonl", Notice(text=note))
        stage = "exemplars" if not net.model.pushes else "push" if net.push is not None else "joint"
        state = CheckpointState(
            config=config_to_dict(net.config), classes=net.classes, stage=stage, epoch=0, push=net.push
        )
        return save_checkpoint(folder, "imported-0", net.model, state)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _table(net: ReleasedNet) -> dict[str, object]:
    sources = net.sources
    return {
        "format": FORMAT,
        "file": net.path.name,
        "sha256": _sha256(net.path),
        "system": net.system,
        "backbone": net.config.model.backbone,
        "difference": net.difference,
        "notes": list(net.notes),
        "accuracy": None if net.scores is None else net.scores.accuracy,
        "sources": None if sources is None else {"file": sources.path.name, "rows": list(asdict(sources)["rows"])},
    }
