"""Worker processes of a phase: handing out units, keeping time, and noticing what ended. Knows no torch."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks.commit import ROOT
from benchmarks.gpu.plan import Phase, Settings, Unit

# Workers that end before they are ready, one after the other: more will not do better.
MOST_FALSE_STARTS = 3
LINES_OF_OUTPUT = 12
# Called with a unit and what came of it: status, text, tables, data.
Told = Callable[[Unit, dict[str, Any]], None]


class NoWorkersError(RuntimeError):
    """Workers end before they are ready to do anything."""


@dataclass(eq=False)
class Worker:
    """A worker process in its own process group.

    Attributes:
        begun: when it was started or was given its unit.
        pending: what it said of a line so far.
    """

    process: subprocess.Popen[bytes]
    answers: int
    output: Path
    begun: float
    ready: bool = False
    unit: Unit | None = None
    pending: bytes = b""
    leaving: bool = False

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just ended, which its answers will show
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def end(self) -> None:
        """Kill it and everything it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        os.close(self.answers)

    def last_words(self) -> str:
        """How it ended and the end of what it printed."""
        code = self.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        text = self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""
        return "\n    ".join([how, *text.strip().splitlines()[-LINES_OF_OUTPUT:]])


@dataclass
class Pool:
    """The workers of one phase, until its units are done or its time is up.

    Attributes:
        environment: on top of this process's own.
        number: of workers at most.
        false_starts: workers in a row that ended before they were ready; `last` says how the last of them did.
    """

    phase: Phase
    settings: Settings
    number: int
    environment: Mapping[str, str]
    told: Told
    workers: list[Worker] = field(default_factory=list)
    started: int = 0
    false_starts: int = 0
    last: str = ""

    def run(self, units: Sequence[Unit], deadline: float) -> int:
        """Do the units in order; returns how many were not begun before `deadline` (of time.monotonic).

        Raises:
            NoWorkersError: workers end before they are ready.
        """
        queue = list(units)
        try:
            while (queue or self.at_work()) and time.monotonic() < deadline:
                self.hand_out(queue)
                self.listen(deadline)
                self.end_what_overran()
                if self.false_starts >= MOST_FALSE_STARTS:
                    raise NoWorkersError(f"{self.false_starts} processes ended before they began: {self.last}")
            for worker in self.at_work():
                self.tell(worker, "cut", "the time was up")
        finally:
            for worker in list(self.workers):
                self.drop(worker)
        return len(queue)

    def at_work(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.unit is not None]

    def hand_out(self, queue: list[Unit]) -> None:
        for worker in self.workers:
            if queue and worker.ready and worker.unit is None and not worker.leaving:
                worker.unit, worker.begun = queue.pop(0), time.monotonic()
                worker.send(worker.unit)
        waiting = sum(worker.unit is None and not worker.leaving for worker in self.workers)
        while len(self.workers) < self.number and waiting < len(queue):
            self.workers.append(self.start())
            waiting += 1

    def start(self) -> Worker:
        read, write = os.pipe()
        output = Path(self.settings.home) / "output" / f"{self.phase.name}-{self.started}.txt"
        self.started += 1
        command = [sys.executable, "-m", "benchmarks.gpu.worker", self.phase.work, str(write)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self.environment}
        with open_sink(output) as sink:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                pass_fds=(write,),
                start_new_session=True,
            )
        os.close(write)
        worker = Worker(process, read, output, time.monotonic())
        worker.send(asdict(self.settings))
        return worker

    def listen(self, deadline: float) -> None:
        """Wait for answers, until something else is due."""
        with selectors.DefaultSelector() as selector:
            for worker in self.workers:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            now = time.monotonic()
            due = [
                deadline,
                *(worker.begun + self.phase.unit_seconds for worker in self.workers if self.is_timed(worker)),
            ]
            for key, _ in selector.select(max(0.0, min(due) - now)):
                self.read(key.data)

    def is_timed(self, worker: Worker) -> bool:
        return worker.unit is not None or not worker.ready

    def read(self, worker: Worker) -> None:
        said = os.read(worker.answers, 1 << 16)
        if not said:
            self.mourn(worker)
            return
        *lines, worker.pending = (worker.pending + said).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message.get("ready"):
                worker.ready, self.false_starts = True, 0
                continue
            result = message["result"]
            worker.leaving = bool(result["data"].get("poisoned"))
            unit, worker.unit = worker.unit, None
            assert unit is not None
            self.told(unit, result)

    def mourn(self, worker: Worker) -> None:
        """A worker has ended, of itself or by what it was doing."""
        words = worker.last_words()
        if worker.unit is not None:
            self.tell(worker, "crashed", words)
        elif not worker.ready:
            self.false_starts, self.last = self.false_starts + 1, words
        self.drop(worker)

    def end_what_overran(self) -> None:
        limit = self.phase.unit_seconds
        for worker in [one for one in self.workers if self.is_timed(one) and time.monotonic() - one.begun >= limit]:
            if worker.unit is not None:
                self.tell(worker, "overran", f"took longer than {limit:g} s")
            else:
                self.false_starts, self.last = self.false_starts + 1, f"not ready after {limit:g} s"
            self.drop(worker)

    def tell(self, worker: Worker, status: str, text: str) -> None:
        unit, worker.unit = worker.unit, None
        assert unit is not None
        self.told(unit, {"status": status, "text": text, "tables": {}, "data": {}})

    def drop(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.end()


def open_sink(path: Path) -> BinaryIO:
    """Where a worker prints; nowhere if there is no space, because its results are sent separately."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError:
        return Path(os.devnull).open("wb")
