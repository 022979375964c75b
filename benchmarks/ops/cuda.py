"""Times on a CUDA device: events around single calls with a cold L2, and replays of a graph over several inputs.

Everything that touches the driver goes through `Driver`, so that the tests run the rest without a GPU.
"""

from __future__ import annotations

import math
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.ops.cases import Inputs
from benchmarks.ops.machine import Machine, describe
from benchmarks.ops.peak import Limit, copy_limit, product_limit
from benchmarks.ops.providers import PRECISIONS, Missing, Provider, first_line, set_torch_flags
from benchmarks.ops.timing import Call, Timed

# As triton.testing.do_bench clears it, so that times compare with those of others.
FLUSH_BYTES = 256 << 20
COPY_BYTES = 2 << 30
PRODUCT_SIDE = 8192
LEAST_SETS, MOST_SETS = 4, 32
EVENTS_PER_SAMPLE = 5
# A longer call gains nothing from a graph that is worth the time and memory of making one.
GRAPH_BELOW_MS = 1.0


class Event(Protocol):
    def record(self) -> None: ...

    def elapsed_time(self, end: Any) -> float: ...


class Driver(Protocol):
    """The few things that only a CUDA device can do."""

    place: torch.device

    def event(self) -> Event: ...

    def synchronize(self) -> None: ...

    def capture(self, calls: Sequence[Callable[[], Tensor]]) -> Call:
        """A graph of the calls in a row; returns what replays it."""

    def name(self) -> str: ...

    def processors(self) -> int: ...

    def capability(self) -> str: ...

    def cache_bytes(self) -> int:
        """Size of the L2 cache."""

    def release(self) -> None:
        """Drop captured graphs and cached memory."""

    def start_memory(self) -> int:
        """Bytes in use now; the peak counts from here."""

    def peak_memory(self) -> int:
        """Most bytes in use at once since `start_memory`."""


class TorchDriver:
    """The first CUDA device of torch."""

    def __init__(self) -> None:
        self.place = torch.device("cuda", 0)
        torch.cuda.set_device(self.place)
        self._properties = torch.cuda.get_device_properties(self.place)
        self._pool: Any = None
        self._graphs: list[Any] = []

    def event(self) -> Event:
        event: Event = torch.cuda.Event(enable_timing=True)
        return event

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def capture(self, calls: Sequence[Callable[[], Tensor]]) -> Call:
        # Autograd and libraries set themselves up on a side stream first, as torch's manual of CUDA graphs asks.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for call in calls:
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        # One pool for all graphs: no result outlives its replay, and separate pools would need all their maps at once.
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            for call in calls:
                call()
        self._graphs.append(graph)
        replay: Call = graph.replay
        return replay

    def name(self) -> str:
        return str(self._properties.name)

    def processors(self) -> int:
        return int(self._properties.multi_processor_count)

    def capability(self) -> str:
        return f"sm_{self._properties.major}{self._properties.minor}"

    def cache_bytes(self) -> int:
        return int(self._properties.L2_cache_size)

    def release(self) -> None:
        self._graphs.clear()
        self._pool = None
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def start_memory(self) -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())

    def peak_memory(self) -> int:
        return int(torch.cuda.max_memory_allocated())


class EventClock:
    """Time between two events on the stream, the median over the repeats.

    With `flush`, the L2 cache is overwritten before every call. The overwriting also gives the host a head start, so
    gaps between launches count only where they exceed it.
    """

    def __init__(self, driver: Driver, flush: Tensor | None) -> None:
        self.driver = driver
        self.flush = flush

    def milliseconds(self, call: Call, repeats: int = 1) -> float:
        pairs = [(self.driver.event(), self.driver.event()) for _ in range(repeats)]
        for start, end in pairs:
            if self.flush is not None:
                self.flush.zero_()
            start.record()
            call()
            end.record()
        self.driver.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in pairs)

    def repeats(self, expected_ms: float) -> int:
        return EVENTS_PER_SAMPLE if expected_ms < 5 else 1


class Cuda:
    """A CUDA device."""

    kind = "cuda"

    def __init__(
        self,
        driver: Driver,
        *,
        flush_bytes: int = FLUSH_BYTES,
        copy_bytes: int = COPY_BYTES,
        product_side: int = PRODUCT_SIDE,
        graph_below_ms: float = GRAPH_BELOW_MS,
    ) -> None:
        self.driver = driver
        self.place = driver.place
        self._flush = torch.empty(flush_bytes // 4, dtype=torch.int32, device=self.place)
        self._cold = EventClock(driver, self._flush)
        self._warm = EventClock(driver, None)
        self._copy_bytes = copy_bytes
        self._product_side = product_side
        self._graph_below_ms = graph_below_ms
        self._limits: dict[str, Limit] = {}

    def describe(self) -> Machine:
        """The machine with the GPU's name, multiprocessors and architecture instead of the processor's."""
        return replace(
            describe(), device=self.driver.name(), cores=self.driver.processors(), isa=self.driver.capability()
        )

    def versions(self) -> str:
        parts = [f"Python {platform.python_version()}", f"CUDA {torch.version.cuda}"]
        try:
            import triton

            parts.append(f"Triton {triton.__version__}")
        except ImportError:
            parts.append("no Triton")
        driver = ask_nvidia_smi("driver_version")
        return ", ".join([*parts, f"driver {driver}"] if driver else parts)

    def clocks(self) -> str:
        answer = ask_nvidia_smi("clocks.sm,clocks.mem")
        return f"SM and memory {answer.replace(',', ' and')}" if answer else ""

    def limits(self, threads: int) -> dict[str, Limit]:
        """Measured once: the operands are large, and every case has the same limits."""
        if not self._limits:
            self._limits = {
                f"peak {precision}": product_limit(
                    self.place, self._warm, precision, set_flags(precision), self._product_side
                )
                for precision in PRECISIONS
            }
            self._limits["copy"] = copy_limit(self.place, self._warm, self._copy_bytes)
        return self._limits

    def input_sets(self, size: int) -> int:
        return min(MOST_SETS, max(LEAST_SETS, math.ceil(1.5 * self.driver.cache_bytes() / size)))

    def timers(self, provider: Provider, inputs: Sequence[Inputs]) -> tuple[dict[str, Timed], list[Missing]]:
        before = set_flags(provider.precision)
        eager = Timed(call=provider.bind(inputs[0], "log"), clock=self._cold, before=before, pool=provider.pool)
        timers = {"eager": eager}
        if not provider.capturable:
            return timers, [Missing(f"{provider.label} in a graph", "it cannot be captured")]
        before()
        if self._warm.milliseconds(eager.call) > self._graph_below_ms:
            reason = f"a call takes more than {self._graph_below_ms:g} ms, beside which launches do not count"
            return timers, [Missing(f"{provider.label} in a graph", reason)]
        try:
            calls = [provider.bind(one, "log") for one in inputs]
            replay = self.driver.capture(calls)
            replay()
            self.driver.synchronize()
        # torch raises RuntimeError and its subclasses for everything that cannot be captured, and for lack of memory.
        except RuntimeError as error:
            return timers, [Missing(f"{provider.label} in a graph", first_line(error))]
        timers["graph"] = Timed(
            call=keep(replay, calls), clock=self._warm, before=before, pool=provider.pool, parts=len(calls)
        )
        return timers, []

    def release(self) -> None:
        self.driver.release()


def set_flags(precision: str) -> Callable[[], None]:
    return lambda: set_torch_flags(precision)


def keep(replay: Call, calls: Sequence[Callable[[], Tensor]]) -> Call:
    """The replay, holding on to the calls, whose tensors the graph reads."""

    def run() -> None:
        assert calls
        replay()

    return run


def ask_nvidia_smi(field: str) -> str:
    """A field of the first GPU; empty where the program is missing or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, f"--query-gpu={field}", "--format=csv,noheader", "--id=0"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def open_cuda() -> Cuda:
    """The CUDA device.

    Raises:
        SystemExit: there is none.
    """
    if not torch.cuda.is_available():
        raise SystemExit("--device: must be cpu where torch sees no CUDA device; got 'cuda'.")
    return Cuda(TorchDriver())
