"""A process that opens a run once, and edits or serves it in forks of itself, which may be killed at any moment.

Orders come as JSON lines, answers go out as JSON lines. `kind` "edit": edit until the fork is killed, so many seconds
`after` its first edit or at the `at_sync`-th sync of a file; the answer has what was `tried` and what was `done`.
"serve": run `protokern app` with the output in the file `out`; the answer has its `process`. "end": kill that with
`signal`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

import protokern.app.server
import protokern.cli.app  # noqa: F401 - imported here so that no fork has to
from protokern.app.editor import Editor
from protokern.cli.main import main
from protokern.edits.bench import Bench
from protokern.edits.records import Assign, Entry, Forbid, Keep, Undo, to_table
from protokern.runs.data import open_data
from protokern.runs.features import find_inputs
from protokern.runs.open import open_run

LONGEST = 20.0  # seconds of a fork that nothing kills


def obey(folder: Path) -> None:
    """Answer orders until there are no more."""
    torch.set_num_threads(1)
    run = open_run(folder)
    bench = Bench(run, find_inputs(run, open_data(run.config, run=folder)))
    bench.apply([])
    _answer({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        if order["kind"] == "edit":
            _answer(_edit_and_die(bench, order))
        elif order["kind"] == "serve":
            _answer({"process": _serve(folder, Path(order["out"]))})
        else:
            os.kill(order["process"], order["signal"])
            _answer({"code": os.waitstatus_to_exitcode(os.waitpid(order["process"], 0)[1])})


def _answer(table: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(table) + "\n")
    sys.stdout.flush()


def _edit_and_die(bench: Bench, order: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            if order.get("at_sync"):
                _die_at_sync(order["at_sync"])
            _edit(bench, order["seed"], writing)
        finally:
            os._exit(70)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        first = [file.readline(), file.readline()]
        if "after" in order:
            time.sleep(order["after"])
            os.kill(child, signal.SIGKILL)
        text = "".join([*first, file.read()])
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    os.waitpid(child, 0)
    return {kind: [table for name, table in lines if name == kind] for kind in ("tried", "done")}


def _edit(bench: Bench, seed: int, out: int) -> None:
    draw = random.Random(seed)
    editor = Editor(bench)
    end = time.monotonic() + LONGEST
    for number in itertools.count():
        if time.monotonic() > end:
            return
        entries: list[Entry] = [
            Forbid(prototype=draw.randrange(3), reason=f"{seed}.{number}" + "é" * draw.randrange(1000)),
            Keep(prototype=draw.randrange(3)),
            Assign(prototype=5, classes=(draw.choice(bench.run.classes),)),
            Undo(),
        ]
        entry = draw.choice(entries)
        if isinstance(entry, Undo) and not editor.can_undo:
            continue
        os.write(out, json.dumps(["tried", to_table(entry)]).encode() + b"\n")
        editor.act(entry, editor.revision)
        os.write(out, json.dumps(["done", to_table(entry)]).encode() + b"\n")


def _die_at_sync(number: int) -> None:
    """Die at the `number`-th sync of this process: before it if that is odd, else after it."""
    sync, count = os.fsync, 0

    def dying(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == number and number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, "fsync", dying)  # noqa: B010 - its type is wider


def _serve(folder: Path, out: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 70
        try:
            for descriptor in (1, 2):
                os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
            code = main(["app", str(folder), "--port", "0", "--device", "cpu"])
        finally:
            os._exit(code)
    return child


if __name__ == "__main__":
    obey(Path(sys.argv[1]))
