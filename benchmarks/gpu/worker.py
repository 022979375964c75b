"""A process that does units: `python -m benchmarks.gpu.worker WORK FD`. The lines of its standard input are what to do.

The first line holds the settings, every other one a unit. Answers go to the file descriptor FD, a JSON line each; what
is printed goes to the output. It ends with its standard input, and takes its process group along.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pkgutil import resolve_name
from queue import SimpleQueue
from typing import Any

from benchmarks.gpu.plan import Settings, Unit

# What a process whose CUDA context a kernel has broken exits with; whatever follows in it would fail too.
POISONED = 3


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a unit gives.

    Attributes:
        status: one of DONE, "missing" or "crashed" (plan.py).
        text: what is printed; empty for nothing.
        tables: rows by the name of their table, each a dict in the order of the columns.
        data: what later phases and the summary need, JSON.
    """

    status: str
    text: str = ""
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


Work = Callable[[Unit, Settings], Result]


def attempt(work: Work, unit: Unit, settings: Settings) -> Result:
    """Run a unit and report any error."""
    try:
        result = work(unit, settings)
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or ["no message"]
        result = Result(status="crashed", text=f"{type(error).__name__}: {lines[0][:300]}")
    trouble = device_trouble()
    if trouble:
        return Result(status="crashed", text=f"the device: {trouble}", data={"poisoned": True})
    return result


def device_trouble() -> str:
    """What the device says of everything it was given so far; empty where all is well, or none was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).splitlines()[0][:300]
    return ""


def read_lines(lines: SimpleQueue[str]) -> None:
    """Hand on what comes; at the end, which is the end of the process that started this one, end too."""
    for line in sys.stdin:
        lines.put(line)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    work: Work = resolve_name(sys.argv[1])
    with os.fdopen(int(sys.argv[2]), "w", encoding="utf-8") as answers:

        def answer(message: dict[str, Any]) -> None:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

        lines: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=read_lines, args=(lines,), daemon=True).start()
        settings = Settings(**json.loads(lines.get()))
        answer({"ready": True})
        while True:
            result = attempt(work, json.loads(lines.get()), settings)
            sys.stdout.flush()
            answer({"result": asdict(result)})
            if result.data.get("poisoned"):
                os._exit(POISONED)


if __name__ == "__main__":
    sys.exit(main())
