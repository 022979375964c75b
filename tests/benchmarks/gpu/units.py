"""Units that go wrong in every way a kernel can, for the runner; no torch."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Records, Settings, Unit
from benchmarks.gpu.worker import Result


def written_units(settings: Settings, records: Records) -> list[Unit]:
    """The list that a test wrote."""
    return json.loads((Path(settings.home) / "units.json").read_text())


def no_units(settings: Settings, records: Records) -> list[Unit]:
    return []


def units_after(settings: Settings, records: Records) -> list[Unit]:
    """One for each of the first phase that was right."""
    return [{"name": name, "does": "right"} for name, record in records["first"].items() if record.status == "right"]


def broken_units(settings: Settings, records: Records) -> list[Unit]:
    raise ImportError("no such library")


def a_device(settings: Settings, records: Records) -> list[Unit]:
    return [{"name": "device", "does": "done"}]


def sleepy_units(settings: Settings, records: Records) -> list[Unit]:
    time.sleep(60)
    return []


def do(unit: Unit, settings: Settings) -> Result:
    begun = Path(settings.home) / "begun.txt"
    with begun.open("a") as file:
        file.write(f"{unit['name']} {os.getpid()}\n")
    return {
        "right": _right,
        "wrong": lambda unit: Result(status="wrong", text="off by 3"),
        "missing": lambda unit: Result(status="missing", text="not built"),
        "raise": _raise,
        "abort": lambda unit: os.abort(),
        "exit": lambda unit: os._exit(7),
        "segv": lambda unit: ctypes.string_at(0),
        "poison": lambda unit: Result(status="crashed", text="illegal access", data={"poisoned": True}),
        "hang": _hang,
        "chatter": _chatter,
        "none": lambda unit: Result(status="missing", text="no device"),
        "done": lambda unit: Result(status="done", text="a device"),
        "summary": lambda unit: Result(status="done", data={"text": "of the rows"}),
    }[unit["does"]](unit)


def never(unit: Unit, settings: Settings) -> Result:
    raise AssertionError("nobody asks for this")


def _right(unit: Unit) -> Result:
    rows: list[dict[str, Any]] = [{"name": unit["name"], "pid": os.getpid()}]
    return Result(status="right", tables={"smoke": rows}, text=unit.get("text", ""))


def _raise(unit: Unit) -> Result:
    raise ValueError("a refusal\nwith a second line")


def _hang(unit: Unit) -> Result:
    """With a child that would outlive it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(unit["child"]).write_text(str(child.pid))
    time.sleep(600)
    return Result(status="right")


def _chatter(unit: Unit) -> Result:
    """More output than a pipe holds, of which the end is what counts."""
    sys.stdout.write("x" * 200_000)
    sys.stdout.flush()
    sys.stderr.write("\nthe last line\n")
    os.abort()
