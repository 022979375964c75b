"""Runs of the tests of the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protokern.config import config_to_dict, config_to_toml
from protokern.explain.prototypes import write_prototypes
from protokern.runs.checkpoints import CheckpointState, save_checkpoint
from protokern.runs.open import open_run
from tests.app.served import Served, serving
from tests.cli.pushed_run import PushedRun, make_run

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'protokern[app]'")


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    """A run that no test changes."""
    run = make_run(tmp_path_factory.mktemp("app"))
    solve_quickly(run.folder)
    write_prototypes(run.folder, run.model, run.splits, run.push)
    return run


def solve_quickly(folder: Path) -> None:
    """Write the run again with a last layer that is sought among few candidates, because every edit solves it."""
    run = open_run(folder)
    config = replace(run.config, train=replace(run.config.train, last_layer_path=2, last_layer_gap=1e-2))
    state = CheckpointState(
        config=config_to_dict(config), classes=run.classes, stage="push", epoch=run.epoch, push=run.push
    )
    save_checkpoint(folder, run.checkpoint.name, run.model, state)
    (folder / "run.toml").write_text(config_to_toml(config, {"protokern": "0.1.0"}))


@pytest.fixture(scope="session")
def read_only(pushed: PushedRun) -> Iterator[Served]:
    """Its page, which no test edits."""
    with serving(pushed.folder) as served:
        yield served


@pytest.fixture
def copy_run(pushed: PushedRun, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the run, in a folder of its own, for tests that edit; the photographs are shared."""
    count = iter(range(100))

    def copy() -> Path:
        return shutil.copytree(pushed.folder, tmp_path / f"runs{next(count)}" / "run")

    return copy


@pytest.fixture
def served(copy_run: Callable[[], Path]) -> Iterator[Served]:
    """The page of a run of its own."""
    with serving(copy_run()) as one:
        yield one
