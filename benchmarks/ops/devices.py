"""What a run needs from the device it measures: a description, clocks, limits and inputs. CUDA is in cuda.py."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.ops.cases import Inputs
from benchmarks.ops.machine import Machine, describe
from benchmarks.ops.peak import Limit, PeakProbe, copy_limit
from benchmarks.ops.providers import Missing, Provider, set_torch_flags
from benchmarks.ops.timing import Timed

Bind = Callable[[Inputs], Callable[[], Tensor]]


class Device(Protocol):
    """One device.

    Attributes:
        kind: "cpu" or "cuda", the name in options and tables.
        place: where its tensors live.
    """

    kind: str
    place: torch.device

    def describe(self) -> Machine:
        """The machine as rows carry it."""

    def versions(self) -> str:
        """Of everything that takes part."""

    def clocks(self) -> str:
        """The clock rates just now; empty where they cannot be read."""

    def limits(self, threads: int) -> dict[str, Limit]:
        """Rates to measure along: "copy", and "peak" for one rate or "peak fp32" and so on for one a precision."""

    def input_sets(self, size: int) -> int:
        """How many input sets of this size a graph cycles through, so that none is still cached."""

    def timers(self, provider: Provider, inputs: Sequence[Inputs]) -> tuple[dict[str, Timed], list[Missing]]:
        """Every timing of a provider here, by the name of the timer, and which could not be made."""

    def release(self) -> None:
        """Let go of what the last case needed."""


def peak_name(limits: dict[str, Limit], precision: str) -> str:
    """The limit for a provider of that precision."""
    return "peak" if "peak" in limits else f"peak {precision}"


class Cpu:
    """The processor, with wall-clock times."""

    kind = "cpu"
    place = torch.device("cpu")

    def describe(self) -> Machine:
        return describe()

    def versions(self) -> str:
        return f"Python {platform.python_version()}"

    def clocks(self) -> str:
        return ""

    def limits(self, threads: int) -> dict[str, Limit]:
        return {"peak": PeakProbe(threads).limit(), "copy": copy_limit(self.place)}

    def input_sets(self, size: int) -> int:
        return 1

    def timers(self, provider: Provider, inputs: Sequence[Inputs]) -> tuple[dict[str, Timed], list[Missing]]:
        timed = Timed(
            call=provider.bind(inputs[0], "log"),
            before=lambda: set_torch_flags(provider.precision),
            pool=provider.pool,
        )
        return {"eager": timed}, []

    def release(self) -> None:
        return None
