"""A run that takes a second: three classes of coloured squares, the tiny backbone, images of 16 pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protokern.config import RunConfig, config_to_dict, parse_config
from protokern.models.build import build_model
from protokern.runs.progress import set_seed
from protokern.train.events import BatchDone, Event, RunStopped
from protokern.train.loop import train
from protokern.train.state import Job, TrainingRun

CLASSES = ("red", "green", "blue")
SIZE = 16


class Squares:
    """Noise with a square of the class's colour somewhere; `set_epoch` changes the noise when `augmented`."""

    def __init__(self, count: int, *, seed: int, augmented: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = [index % len(CLASSES) for index in range(count)]
        self.images = 0.3 * torch.rand(count, 3, SIZE, SIZE, generator=generator)
        corners = torch.randint(0, SIZE - 6, (count, 2), generator=generator).tolist()
        for image, label, (row, column) in zip(self.images, self.labels, corners, strict=True):
            image[label, row : row + 6, column : column + 6] = 1.0
        self.augmented = augmented
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        if self.augmented:
            generator = torch.Generator().manual_seed(1000 * self.epoch + index)
            image = image + 0.05 * torch.rand(image.shape, generator=generator)
        return image, self.labels[index]

    def sample_name(self, index: int) -> str:
        return f"{CLASSES[self.labels[index]]}/{index}.png"

    def source_path(self, index: int) -> Path | None:
        return None

    def transform(self) -> str:
        return f"{SIZE} pixels"

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


@dataclass
class ToySplits:
    train: Any = field(default_factory=lambda: Squares(30, seed=1, augmented=True))
    push: Any = field(default_factory=lambda: Squares(30, seed=1))
    val: Any = field(default_factory=lambda: Squares(12, seed=2))
    test: Any = field(default_factory=lambda: Squares(9, seed=3))
    notes: tuple[str, ...] = ("a note",)


NET = {"backbone": "tiny", "prototypes_per_class": 2, "prototype_dim": 8}
POOL = {
    "name": "protopool",
    "backbone": "tiny",
    "num_prototypes": 5,
    "slots_per_class": 2,
    "prototype_dim": 8,
    "schedule_epochs": 4,
}


TREE = {"name": "prototree", "backbone": "tiny", "depth": 3, "prototype_dim": 8}
TESNET = {"name": "tesnet", "backbone": "tiny", "prototypes_per_class": 2, "prototype_dim": 8}


def pool_config(*, model: dict[str, Any] | None = None, **train: Any) -> RunConfig:
    """Three classes with two slots each share a pool of five prototypes; `model` changes that."""
    return toy_config(model={**POOL, **(model or {})}, **train)


def toy_config(*, model: dict[str, Any] | None = None, **train: Any) -> RunConfig:
    """`prune`: whether, or the table's own keys."""
    prune = train.pop("prune", False)
    rules = prune if isinstance(prune, dict) else {"enabled": prune}
    defaults = {
        "batch_size": 8,
        "warm_epochs": 1,
        "joint_epochs": 2,
        "last_layer_epochs": 3,
        "last_layer_path": 3,
        "backbone_lr": 1e-3,
        "last_layer_lr": 1e-2,
    }
    return parse_config(
        {
            "model": NET if model is None else model,
            "data": {"image_size": SIZE},
            "train": {**defaults, **train},
            "prune": {"enabled": True, "k": 3, "threshold": 2, **rules},
        }
    )


def toy_run(folder: Path, config: RunConfig, splits: ToySplits | None = None, **job: Any) -> TrainingRun:
    """`job`: fields of the Job that are not their defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(config.train.seed, 0)
    return TrainingRun(
        Job(
            folder=folder,
            model=build_model(config.model, len(CLASSES), SIZE),
            splits=splits or ToySplits(),
            classes=CLASSES,
            config=config_to_dict(config),
            train=config.train,
            prune=config.prune,
            **job,
        )
    )


def train_until_stopped(
    run: TrainingRun, seen: list[Any], wanted: Callable[[Event], bool] = lambda event: isinstance(event, BatchDone)
) -> None:
    """Train, and collect what is wanted of the events; the training has to stop, and to say where it goes on from."""
    last = None
    for last in train(run):
        if wanted(last):
            seen.append(last)
    assert run.last_checkpoint is not None
    assert last == RunStopped(run.last_checkpoint)
