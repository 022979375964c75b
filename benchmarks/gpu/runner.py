"""Goes through the stages: what is left of each, within its limit, whatever happens. Knows no torch."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pkgutil import resolve_name
from types import FrameType
from typing import Any

from benchmarks.gpu.plan import DEVICE, FAILED, LAST_SECONDS, Lists, Phase, Record, Settings, Stage, Unit
from benchmarks.gpu.pool import NoWorkersError, Pool
from benchmarks.gpu.store import Store

# Exit codes: something failed, is left or could not be written; there is no device.
INCOMPLETE, NO_DEVICE = 1, 2
# Of the summary's time, for what comes after it.
MARGIN_SECONDS = 4.0
# One core hands out and writes down.
MOST_PROCESSES = 16


class StoppedError(BaseException):
    """A signal asked the run to end, or its time was up; like KeyboardInterrupt no error that a stage could survive."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class Run:
    """One call of the command.

    Attributes:
        end: of time.monotonic(), after which nothing runs any more.
        left: units without a result, by phase, for the summary.
        notes: what else the summary has to tell.
    """

    stages: Sequence[Stage]
    summary: Phase
    settings: Settings
    store: Store
    end: float
    begun: float = field(default_factory=time.monotonic)
    left: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def go(self) -> int:
        """All stages and the summary; the exit code."""
        code = 0
        try:
            with signals_raise(self.end):
                code = self.all_stages()
                if code == NO_DEVICE:
                    self.store.finish(self.plain_summary() + "\n")
                    return code
                self.finish()
        except StoppedError as stopped:
            is_late = stopped.number == signal.SIGALRM
            why = "the time was up" if is_late else f"stopped by {stopped}"
            self.notes.append(f"{why}; call again for the rest")
            self.store.finish(self.plain_summary())
            self.say(f"{why}. {self.store.home} has all results so far; call again for the rest.")
            return INCOMPLETE if is_late else 128 + stopped.number
        return code or (INCOMPLETE if self.has_gaps() else 0)

    def has_gaps(self) -> bool:
        """Whether something is left, went wrong or could not be written."""
        records = (self.store.records.get(phase.name, {}) for stage in self.stages for phase in stage.phases)
        bad = any(record.status in ("wrong", *FAILED) for found in records for record in found.values())
        return bad or bool(self.notes) or bool(self.store.troubles) or any(self.left.values())

    def all_stages(self) -> int:
        for stage in self.stages:
            stage_end = min(time.monotonic() + stage.seconds, self.end - LAST_SECONDS)
            self.say(f"== {stage.letter}. {stage.title}; at most {max(0.0, stage_end - time.monotonic()):.0f} s")
            for phase in stage.phases:
                self.do(phase, min(stage_end, time.monotonic() + phase.seconds))
                if phase.name == DEVICE and self.has_no_device():
                    rest = "\n    ".join(f"{one.letter}. {one.title}" for one in self.stages)
                    self.notes.append(f"There is no CUDA device here, so nothing was done of:\n    {rest}")
                    self.say(self.notes[-1])
                    return NO_DEVICE
        return 0

    def has_no_device(self) -> bool:
        """Whether it is sure that there is none; a look that took too long, on a cold disk perhaps, does not say so."""
        return any(record.status == "missing" for record in self.store.records.get(DEVICE, {}).values())

    def do(self, phase: Phase, deadline: float) -> None:
        """What is left of a phase, until `deadline`."""
        try:
            lists: Lists = resolve_name(phase.units)
            units = lists(self.settings, self.store.records)
        # A broken installation, say: this phase cannot be done, the next perhaps can.
        except Exception as error:
            self.notes.append(f"{phase.name}: its units could not be listed ({type(error).__name__}: {error})")
            self.say(f"!! {self.notes[-1]}")
            return
        todo = self.store.left(phase, units)
        if len(todo) < len(units):
            self.say(f"{phase.name}: {len(units) - len(todo)} of {len(units)} units were done before")
        number = min(MOST_PROCESSES, max(1, (os.cpu_count() or 2) - 1)) if phase.parallel else 1
        pool = Pool(phase, self.settings, number, self.environment(phase), self.told(phase, len(todo)))
        try:
            pool.run(todo, deadline)
        except NoWorkersError as error:
            self.notes.append(f"{phase.name}: {error}")
            self.say(f"!! {self.notes[-1]}")
        finally:
            self.left[phase.name] = 0 if phase.always else len(self.waiting(phase, units))
        if phase.report:
            self.say("\n" + self.report(phase))
        if self.left[phase.name]:
            self.say(f"{phase.name}: {self.left[phase.name]} units are left for another call")

    def waiting(self, phase: Phase, units: Sequence[Unit]) -> list[Unit]:
        """Units that another call would get further with; what cannot run here is not among them."""
        known = self.store.records.get(phase.name, {})
        left = self.store.left(phase, units)
        return [unit for unit in left if unit["name"] not in known or known[unit["name"]].status != "missing"]

    def report(self, phase: Phase) -> str:
        return str(resolve_name(phase.report)(self.store.records.get(phase.name, {})))

    def environment(self, phase: Phase) -> dict[str, str]:
        chosen = {"PROTOKERN_COMMIT": self.settings.commit, "TRITON_INTERPRET": "0"}
        if self.settings.rehearse and phase.interpreted:
            chosen["TRITON_INTERPRET"] = "1"
        if phase.parallel:
            chosen["OMP_NUM_THREADS"] = "1"
        return chosen

    def told(self, phase: Phase, number: int) -> Callable[[Unit, dict[str, Any]], None]:
        seen = 0

        def told(unit: Unit, result: dict[str, Any]) -> None:
            nonlocal seen
            seen += 1
            record = self.store.keep(phase, unit, result)
            if record.text:
                self.say(f"{phase.name} {seen}/{number} {unit['name']}: {record.status}. {record.text}")

        return told

    def finish(self) -> None:
        """The summary, with what only a process that knows torch can tell of the rows, if there is one."""
        records = self.store.records
        self.do(self.summary, min(time.monotonic() + self.summary.seconds, self.end - MARGIN_SECONDS))
        told = [record.data["text"] for record in records.get(self.summary.name, {}).values() if "text" in record.data]
        text = "\n\n".join([self.plain_summary(), *told])
        self.store.finish(text + "\n")
        self.say(f"== summary\n{text}")

    def plain_summary(self) -> str:
        """Counts, what failed, what is left."""
        kind = (
            "REHEARSAL: the processor played the device, and no number here is that of a GPU\n" * self.settings.rehearse
        )
        lines = [f"{kind}commit {self.settings.commit}, {time.monotonic() - self.begun:.0f} s"]
        for stage in self.stages:
            for phase in stage.phases:
                records = self.store.records.get(phase.name, {})
                counts = Counter(record.status for record in records.values())
                counts["left"] = self.left.get(phase.name, 0)
                said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
                lines.append(f"{stage.letter}. {phase.name}: {said or 'not begun'}")
                lines += [f"   {line}" for line in failures(records)]
                lines += [self.report(phase)] if phase.report and records else []
        return "\n".join([*lines, *self.notes, *self.store.troubles])

    def say(self, text: str) -> None:
        self.store.say(f"[{time.monotonic() - self.begun:5.0f} s] {text}")


def failures(records: dict[str, Record], most: int = 8) -> Iterator[str]:
    """A line for each unit that went wrong, the first of them."""
    bad = [(name, one) for name, one in records.items() if one.status in ("wrong", "crashed", "overran")]
    for name, record in bad[:most]:
        yield f"{record.status}: {name}: {(record.text.splitlines() or [''])[0][:160]}"
    if len(bad) > most:
        yield f"and {len(bad) - most} more; see state.jsonl"


@contextmanager
def signals_raise(end: float) -> Iterator[None]:
    """Inside, the first signal that asks for an end raises StoppedError, and so does the end of all time."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)

    def stop(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise StoppedError(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    signal.setitimer(signal.ITIMER_REAL, max(0.001, end - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
