"""The training of a head on maps that a program holds: all stages of a run, without a run folder that stays."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from protokern.config import RunConfig, config_to_dict
from protokern.inputs.held import HeldSplits
from protokern.models.base import PrototypeModel
from protokern.push import PushResult
from protokern.train.checks import check_settings
from protokern.train.loop import train
from protokern.train.state import Job, TrainingRun

_MEMORY = Path("/dev/shm")  # what is written there needs no disk
_ROOM = 2**28  # bytes; a few checkpoints of a head are far smaller


def train_on_maps(
    model: PrototypeModel, splits: HeldSplits, classes: tuple[str, ...], config: RunConfig
) -> PushResult | None:
    """Train what comes after a frozen backbone, in place.

    The stages are those of a run, and so are the checkpoints between them, in a temporary folder, in memory if there is
    room.

    Args:
        model: on its device; its backbone is not run.
        splits: maps of its backbone.
        classes: names.
        config: with `train.backbone = "frozen"`.

    Returns:
        Where the prototypes come from, by positions in `splits.train`; None: they are no patches.

    Raises:
        ConfigError: the model cannot be trained with a setting.
        TrainingError: a loss or a distance is not finite, or a class has too few patches.
    """
    check_settings(model, config.train, len(splits.train))
    with tempfile.TemporaryDirectory(prefix="protokern-", dir=_folder_in_memory()) as folder:
        job = Job(
            folder=Path(folder),
            model=model,
            splits=splits,
            classes=classes,
            config=config_to_dict(config),
            train=config.train,
            prune=config.prune,
        )
        run = TrainingRun(job)
        for _ in train(run):
            pass
    model.eval()
    return run.push


def _folder_in_memory() -> Path | None:
    """A folder that is kept in memory; None if there is none with room."""
    is_there = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    return _MEMORY if is_there and shutil.disk_usage(_MEMORY).free >= _ROOM else None
