"""Runs of the tests of the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protokern.explain.prototypes import write_prototypes
from tests.app.served import Served, serving
from tests.cli.pushed_run import PushedRun, make_run

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'protokern[app]'")


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> PushedRun:
    """A run that no test changes."""
    run = make_run(tmp_path_factory.mktemp("app"))
    write_prototypes(run.folder, run.model, run.splits, run.push)
    return run


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
