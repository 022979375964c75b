"""The multiply-add rate of this machine, measured between the rounds of everything else: the line to be held to."""

from __future__ import annotations

import statistics
import time
from importlib.util import find_spec

import torch

NAME = "peak"
SECONDS = 0.005
SIDE = 384


class PeakProbe:
    """A call that takes a sample of the rate each time.

    Independent fused multiply-adds in registers on all threads, with the instruction set of the native backend. Where
    the C++ is not built, an in-cache `torch.mm` stands in, which is below the true peak; `source` says which.
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
