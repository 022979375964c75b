"""A short training on a few small birds, by the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from protokern.cli.main import main

BIRDS = {
    "model.backbone": "tiny",
    "data.image_size": 32,
    "data.birds_classes": 3,
    "data.birds_train": 8,
    "data.birds_val": 4,
    "data.birds_test": 4,
    "train.batch_size": 8,
    "train.warm_epochs": 0,
    "train.joint_epochs": 3,
    "train.backbone_lr": 1e-2,
}


def changes_of(settings: Mapping[str, object]) -> list[str]:
    """`BIRDS` and these settings as arguments."""
    return [part for key, value in {**BIRDS, **settings}.items() for part in ("--set", f"{key}={value}")]


def train_small(folder: Path, settings: Mapping[str, object]) -> Path:
    """Train a run in `folder` with `BIRDS` and these settings; return the folder."""
    assert main(["train", "--out", str(folder), *changes_of(settings)]) == 0
    return folder
