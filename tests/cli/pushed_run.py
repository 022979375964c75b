"""Pushed runs in a folder, without training: two classes of noisy stripes, the tiny net, all through the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from protokern.config import config_to_dict, config_to_toml, parse_config
from protokern.data import Splits, open_splits
from protokern.models import ProtoPool
from protokern.models.base import PrototypeModel
from protokern.models.build import build_model
from protokern.push import PushResult, push_prototypes
from protokern.runs.checkpoints import CheckpointState, save_checkpoint

CLASSES = ("<b>across", "down")
SIZE = 32
POOL_SLOTS = ((0, 1, 2), (2, 3, 0))  # prototypes 0 and 2 are shared, 1 and 3 of one class, 4 and 5 of none


@dataclass(frozen=True)
class PushedRun:
    """The run folder and what it was made of; `push` is None where the choices of a model are still soft."""

    folder: Path
    data: Path
    model: PrototypeModel
    splits: Splits
    push: PushResult | None


def write_photos(root: Path) -> None:
    """Six training and four test photographs of each class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                wave = 90 * np.sin(np.arange(40) * rng.uniform(0.6, 1.2))
                pixels = 128 + (wave[:, None] if label == 0 else wave[None, :]) + rng.normal(0, 12, (40, 40))
                grey = np.clip(pixels, 0, 255).astype(np.uint8)
                Image.fromarray(np.stack([grey, grey // 2, 255 - grey], axis=-1)).save(folder / f"{number}.png")


def make_run(
    root: Path,
    *,
    is_pushed: bool = True,
    size: int | tuple[int, int] = SIZE,
    write: Callable[[Path], object] | None = None,
) -> PushedRun:
    """Write photographs and a run folder with one checkpoint below `root`; no pictures of prototypes yet."""
    return _make_run(root, {"prototypes_per_class": 3}, is_pushed=is_pushed, size=size, write=write)


def make_pool_run(root: Path, *, is_pushed: bool = True) -> PushedRun:
    """As `make_run`, of a ProtoPool; without a push its choices are still soft."""
    pool = {"name": "protopool", "num_prototypes": 6, "slots_per_class": 3}
    return _make_run(root, pool, is_pushed=is_pushed)


def choose(model: PrototypeModel) -> None:
    """Make the choices of a pool final: those of POOL_SLOTS."""
    assert isinstance(model, ProtoPool)
    model.harden()
    model.assignment.slots.copy_(torch.tensor(POOL_SLOTS))


def _make_run(
    root: Path,
    model_table: dict[str, Any],
    *,
    is_pushed: bool,
    size: int | tuple[int, int] = SIZE,
    write: Callable[[Path], object] | None = None,
) -> PushedRun:
    data, folder = root / "photos", root / "run"
    (write or write_photos)(data)
    folder.mkdir()
    table = {
        "model": {"backbone": "tiny", "weights": "none", "prototype_dim": 8, **model_table},
        "data": {"path": str(data), "image_size": size, "val_fraction": 0.34, "cache": "none"},
        "train": {"batch_size": 4},
    }
    config = parse_config(table)
    splits = open_splits(data, image_size=size, val_fraction=0.34)
    torch.manual_seed(1)
    model = build_model(config.model, 2, size).eval()
    if is_pushed and model.chooses:
        choose(model)
    push = push_prototypes(model, DataLoader(splits.push, batch_size=4)) if model.is_hard else None
    state = CheckpointState(
        config=config_to_dict(config),
        classes=tuple(splits.classes),
        stage="push" if is_pushed else "joint",
        epoch=2,
        push=push if is_pushed else None,
    )
    save_checkpoint(folder, f"{state.stage}-2", model, state)
    (folder / "run.toml").write_text(config_to_toml(config, {"protokern": "0.1.0"}))
    return PushedRun(folder, data, model, splits, push)
