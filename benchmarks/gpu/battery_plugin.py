"""A pytest plugin: stores outcomes at once, skips what passed, ends a process whose CUDA context broke.

A kernel that breaks its CUDA context would fail every later test of its process. xdist starts another process in its
place, and counts the test as failed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from benchmarks.gpu.worker import POISONED, device_trouble

# They name the file that outcomes are appended to, and that of what passed before: the same for every process of a run.
OUTCOMES, PASSED = "PROTOKERN_GPU_OUTCOMES", "PROTOKERN_GPU_PASSED"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the process that a person started: the others only report to it."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if report.when == "call" or report.outcome != "passed":
        with Path(os.environ[OUTCOMES]).open("a", encoding="utf-8") as file:
            file.write(json.dumps([report.nodeid, report.outcome]) + "\n")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = set(json.loads(Path(os.environ[PASSED]).read_text(encoding="utf-8")))
    passed = [item for item in items if item.nodeid in known]
    if passed:
        config.hook.pytest_deselected(items=passed)
        items[:] = [item for item in items if item.nodeid not in known]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    if "PYTEST_XDIST_WORKER" in os.environ and device_trouble():
        os._exit(POISONED)
    return result


def read_outcomes(path: Path) -> dict[str, str]:
    """The last outcome of every test; a line that was cut off is passed over."""
    found: dict[str, str] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                name, outcome = json.loads(line)
            except ValueError:
                continue
            found[name] = outcome
    return found
