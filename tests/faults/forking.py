"""A process that imports everything once and then runs commands in forks of itself, which may be killed at any moment.

Orders come as JSON lines: `arguments` of the command, `kill_after` so many seconds or `kill_at_write` of that number.
Answers go out as JSON lines: the exit `code` (negative: the signal that ended it), `seconds`, `output` and `error`.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from protokern.cli.main import main

# Imported here so that no fork has to.
for _name in (
    "matplotlib.figure",
    "matplotlib.font_manager",
    "protokern.cli.report",
    "protokern.cli.train",
    "protokern.explain.prototypes",
    "protokern.models.protopnet",
    "scipy.optimize",
    "scipy.stats",
    "torch._dynamo",
):
    importlib.import_module(_name)


def serve() -> None:
    """Answer orders until there are no more."""
    torch.set_num_threads(1)
    _answer({"ready": True})
    for line in sys.stdin:
        _answer(_run(json.loads(line)))


def _answer(table: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(table) + "\n")
    sys.stdout.flush()


def _run(order: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output, error = Path(folder, "output"), Path(folder, "error")
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _become(order, output, error)
        status = _wait(child, order.get("kill_after"))
        return {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - started,
            "output": output.read_text() if output.exists() else "",
            "error": error.read_text() if error.exists() else "",
        }


def _wait(child: int, kill_after: float | None) -> int:
    if kill_after is not None:
        deadline = time.monotonic() + kill_after
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _become(order: dict[str, Any], output: Path, error: Path) -> None:
    """Run the command in this fork, and end it."""
    code = 70
    try:
        for path, descriptor in ((output, 1), (error, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        if order.get("kill_at_write"):
            _die_at_write(order["kill_at_write"])
        code = main(order["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _die_at_write(number: int) -> None:
    """Die when the disk is touched for the `number`-th time: half of the time before it, half of the time after it."""
    count = 0

    def dying(action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and number % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = action(*args, **options)
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return act

    for owner, name in ((os, "fsync"), (os, "replace"), (os, "unlink"), (os, "mkdir"), (shutil, "rmtree")):
        setattr(owner, name, dying(getattr(owner, name)))


if __name__ == "__main__":
    serve()
