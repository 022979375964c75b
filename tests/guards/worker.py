"""A process of one revision: imports its package once, then runs commands in forks of itself, or tells its addresses.

Started by the path of this file with the revision's tree as PYTHONPATH, so it must import nothing but `addresses` of
these guards. Orders and answers are JSON lines, on the file descriptors that were standard input and output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import addresses
import torch

import protokern
from protokern.cli.main import VERBS, main

BEFOREHAND = ("matplotlib.pyplot", "jinja2", "torchvision.transforms.v2", "pydantic", "safetensors.torch")


def serve() -> None:
    """Answer orders until there are no more."""
    for name in (*BEFOREHAND, *(f"protokern.cli.{verb}" for verb, _ in VERBS)):
        import_module(name)  # here, so that no fork has to
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what somebody prints is no answer
    print(json.dumps({"package": protokern.__file__}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer = _command(order) if "arguments" in order else getattr(addresses, order["call"])(*order["given"])
        print(json.dumps(answer), file=answers, flush=True)


def _command(order: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        child = os.fork()
        if child == 0:
            _become(order, outputs)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return {"code": code, **{path.name: path.read_text() for path in outputs}}


def _become(order: dict[str, Any], outputs: list[Path]) -> None:
    """Run the command in this fork, and end it."""
    code = 70
    try:
        for descriptor, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        if order["stop_after"]:
            torch.Tensor.backward = _stopping(torch.Tensor.backward, order["stop_after"])  # type: ignore[method-assign]
        code = main(order["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _stopping(backward: Callable[..., None], batches: int) -> Callable[..., None]:
    """A backward pass which, when it is called for the last of `batches`, asks the process to stop."""
    count = 0

    def counted(*args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == batches:
            os.kill(os.getpid(), signal.SIGTERM)
        backward(*args, **options)

    return counted


if __name__ == "__main__":
    serve()
