"""The process that runs commands in forks, and a short run of which nothing was interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .outcome import Outcome, read_outcome

# Two pushes, the first of which wins, so that the run goes back to it; then prune. Mixup draws in every batch.
SETTINGS = (
    "model.backbone=tiny",
    "model.prototypes_per_class=2",
    "model.prototype_dim=8",
    "data.image_size=32",
    "data.birds_classes=2",
    "data.birds_train=12",
    "data.birds_val=4",
    "data.birds_test=4",
    "train.batch_size=8",
    "train.warm_epochs=1",
    "train.joint_epochs=3",
    "train.push_start=2",
    "train.push_every=1",
    "train.last_layer_epochs=2",
    "train.mixup=0.5",
    "prune.enabled=true",
)


@dataclass(frozen=True)
class Result:
    """How a command ended: `code` is negative when a signal ended it."""

    code: int
    seconds: float
    output: str
    error: str


class Forks:
    """Runs commands in forks of a process that has imported everything."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, *arguments: object, **faults: float) -> Result:
        """Run a command; `kill_after` seconds or `kill_at_write` number."""
        assert self._process.stdin is not None
        order = {"arguments": [str(argument) for argument in arguments], **faults}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Result(**self.answer())

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has died"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def train(self, folder: Path, **faults: float) -> Result:
        """Begin the run in `folder`, or go on with it."""
        if (folder / "run.toml").exists():
            return self.run("train", "--out", folder, "--resume", **faults)
        sets = (word for one in SETTINGS for word in ("--set", one))
        return self.run("train", "--recipe", "paper", "--out", folder, *sets, **faults)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    command = [sys.executable, "-m", "tests.faults.forking"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        made = Forks(process)
        assert made.answer() == {"ready": True}
        yield made
        process.kill()


@dataclass(frozen=True)
class WholeRun:
    """A run that nothing interrupted: what it left behind, and how long it took."""

    folder: Path
    outcome: Outcome
    seconds: float


@pytest.fixture(scope="session")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = forks.train(folder)
    assert result.code == 0, result.error
    return WholeRun(folder, read_outcome(folder), result.seconds)
