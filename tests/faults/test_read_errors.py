"""Images that cannot be read in the middle of a run: one line says so, and the run goes on to the same bits."""

from __future__ import annotations

import errno
import functools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from protokern.data.decode import UnreadableImageError
from protokern.errors import TrainingError
from protokern.inputs.loaders import training_loader
from protokern.inputs.workers import explain_lost_workers
from protokern.runs.checkpoints import find_resumable, read_checkpoint
from protokern.train.loop import train
from tests.train.toy import Squares, ToySplits, toy_config, toy_run

CONFIG = toy_config(warm_epochs=1, joint_epochs=2, mixup=0.5)
DAMAGED = UnreadableImageError(Path("red/9.png"), "Input/output error")
LOST = OSError(errno.EIO, os.strerror(errno.EIO), "red/9.png")


class Failing(Squares):
    """From some epoch on one image cannot be read."""

    def __init__(self, *args: Any, error: Exception, epoch: int = 0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.error, self.first_epoch = error, epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 9 and self.epoch >= self.first_epoch:
            raise self.error
        return super().__getitem__(index)


class Killing(Squares):
    """Kills the process that reads one of its images."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@functools.cache
def whole_weights() -> dict[str, torch.Tensor]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = toy_run(Path(folder), CONFIG)
        list(train(run))
        return {name: value.clone() for name, value in run.model.state_dict().items()}


def failing_splits(split: str, error: Exception) -> ToySplits:
    if split == "train":
        return ToySplits(train=Failing(30, seed=1, augmented=True, error=error, epoch=2))
    counts = {"push": (30, 1), "val": (12, 2)}
    count, seed = counts[split]
    return ToySplits(**{split: Failing(count, seed=seed, error=error)})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("split", "error"), [("train", LOST), ("val", DAMAGED), ("push", LOST)])
def test_after_a_read_error_the_run_goes_on_to_the_same_bits(
    tmp_path: Path, split: str, error: Exception, workers: int
) -> None:
    run = toy_run(tmp_path, CONFIG, failing_splits(split, error), workers=workers)
    with pytest.raises(type(error)) as caught:
        list(train(run))
    assert str(caught.value) == str(error)
    again = toy_run(tmp_path, CONFIG)
    checkpoint = find_resumable(tmp_path)
    assert checkpoint is not None
    assert checkpoint.name == {"train": "joint-1", "val": "init-0", "push": "joint-2"}[split]
    again.resume(read_checkpoint(checkpoint))
    list(train(again))
    weights = again.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in whole_weights().items())


def test_a_worker_that_is_killed_is_one_line() -> None:
    loader = training_loader(Killing(8, seed=0), [[0, 1], [4, 5]], workers=1, seed=0)
    message = r"data\.workers: a process that reads images has died \(DataLoader worker .*\)\. The machine may lack"
    with pytest.raises(TrainingError, match=message) as caught, explain_lost_workers():
        list(loader)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="something else"), explain_lost_workers():
        raise RuntimeError("something else")
