"""The limits of the machine, measured between the rounds of everything else."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from benchmarks.ops.timing import WALL, Clock, Timed, Timing

SECONDS = 0.005
SIDE = 384
COPY_BYTES = 128 << 20


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A rate that is measured along with the providers.

    Attributes:
        timed: the call that uses the resource fully.
        rate: the rate from the call's timing; operations or bytes a second, in units of 1e9.
        source: how it was found, for people.
    """

    timed: Timed
    rate: Callable[[Timing], float]
    source: str


class PeakProbe:
    """A call that takes a sample of the processor's multiply-add rate each time.

    Independent fused multiply-adds in registers on all threads, with the instruction set of the native backend. Where
    the C++ is not built, an in-cache `torch.mm` is used, which is below the true peak; `source` says which.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.has_loop = find_spec("protokern._host") is not None
        self.source = "multiply-adds in registers" if self.has_loop else "in-cache torch.mm"
        self.samples: list[float] = []
        self._operands = torch.rand(2, SIDE, SIDE)
        self._product = torch.empty(SIDE, SIDE)

    def __call__(self) -> None:
        self.samples.append(self._loop_gflops() if self.has_loop else self._mm_gflops())

    @property
    def gflops(self) -> float:
        """Median rate of all samples, in 1e9 operations a second; a multiply-add is two."""
        return statistics.median(self.samples)

    def limit(self) -> Limit:
        # A separate pool: its threads are new each time, and torch's would still be spinning.
        pool = "peak" if self.has_loop else "torch"
        return Limit(timed=Timed(call=self, pool=pool), rate=lambda timing: self.gflops, source=self.source)

    def _loop_gflops(self) -> float:
        from protokern import _host

        return float(_host.fma_peak(self.threads, SECONDS))

    def _mm_gflops(self) -> float:
        start = time.perf_counter()
        products = 0
        while time.perf_counter() - start < SECONDS:
            torch.mm(self._operands[0], self._operands[1], out=self._product)
            products += 1
        return 2e-9 * SIDE**3 * products / (time.perf_counter() - start)


def copy_limit(device: torch.device, clock: Clock = WALL, size: int = COPY_BYTES) -> Limit:
    """Bytes read plus bytes written by a copy that no cache holds."""
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    return Limit(
        timed=Timed(call=lambda: target.copy_(source), clock=clock),
        rate=lambda timing: 2e-6 * size / timing.p50,
        source=f"copy of {size >> 20} MB",
    )


def product_limit(device: torch.device, clock: Clock, precision: str, before: Callable[[], object], side: int) -> Limit:
    """A large square product, the fastest that the device's library does in this precision."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.rand(2, side, side, device=device).to(dtype)
    product = torch.empty(side, side, dtype=dtype, device=device)
    return Limit(
        timed=Timed(call=lambda: torch.mm(left, right, out=product), clock=clock, before=before),
        rate=lambda timing: 2e-6 * side**3 / timing.p50,
        source=f"torch.mm of side {side}, {precision}",
    )
