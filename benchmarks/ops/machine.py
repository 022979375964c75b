"""Which machine, which versions, which commit, and whether anything else was running."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import torch

import protokern
from benchmarks.commit import git_sha

QUIET_LOAD = 0.5
QUIET_OTHERS = 0.1


@dataclass(frozen=True)
class Machine:
    """What every row carries, so that it can be judged and repeated.

    Attributes:
        cores: cores this process may use, and the number of threads it uses.
        isa: the instruction set that the native backend chose.
        load: 1-minute load average before the run began.
        git_sha: the commit, with `+` when tracked files differ from it.
    """

    date: str
    git_sha: str
    device: str
    cores: int
    isa: str
    torch_version: str
    protokern_version: str
    load: float


def settle(seconds: float) -> None:
    """Wait until the load average is low, for instance after tests that ran just before; at most `seconds`.

    Prints a warning when it stays high: the rows measured then are marked.
    """
    end = time.monotonic() + seconds
    if os.getloadavg()[0] > QUIET_LOAD and seconds > 0:
        print(f"load average {os.getloadavg()[0]:.2f}: waiting up to {seconds:g} s for it to fall to {QUIET_LOAD}")
    while os.getloadavg()[0] > QUIET_LOAD and time.monotonic() < end:
        time.sleep(min(5.0, max(0.0, end - time.monotonic())))
    if os.getloadavg()[0] > QUIET_LOAD:
        print(f"warning: load average {os.getloadavg()[0]:.2f} before the start; these rows are marked as not quiet")


def describe() -> Machine:
    """Describe the machine. Call this before the benchmark itself raises the load average."""
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        git_sha=git_sha(),
        device=cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        isa=instruction_set(),
        torch_version=torch.__version__,
        protokern_version=protokern.__version__,
        load=round(os.getloadavg()[0], 2),
    )


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def instruction_set() -> str:
    """What the native backend runs on; "none" where the C++ is not built."""
    if find_spec("protokern._host") is None:
        return "none"
    from protokern import _host

    return str(_host.chosen_instruction_set())


class OtherWork:
    """Cores that were busy with anything but this process, on average over a `with watch_others()` block."""

    cores: float = 0.0


def busy_seconds() -> float:
    """CPU seconds of the whole machine since it started, time taken by the host (steal) included, idle left out."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(value) for value in Path("/proc/stat").read_text(encoding="utf-8").split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU seconds of this process and of those it started and has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def watch_others(own: Callable[[], float] = own_seconds) -> Iterator[OtherWork]:
    """`own` gives the CPU seconds of the work that is measured."""
    seen = OtherWork()
    all_before, own_before, start = busy_seconds(), own(), time.perf_counter()
    yield seen
    elapsed = time.perf_counter() - start
    seen.cores = max(0.0, (busy_seconds() - all_before) - (own() - own_before)) / elapsed
