"""Times several calls fairly on one machine: in one process, round by round, each round in a new random order."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

Call = Callable[[], object]
SHORTEST_SAMPLE_MS = 1.0
# The threads of an OpenMP runtime spin for up to about 20 ms after a call. Each library has its own runtime, so the
# next one would share the cores with them.
SPIN_SECONDS = 0.025


class Clock(Protocol):
    """Takes the time of calls on one device."""

    def milliseconds(self, call: Call, repeats: int = 1) -> float:
        """Time of one call, from `repeats` of them."""

    def repeats(self, expected_ms: float) -> int:
        """How many calls make a good sample."""


class WallClock:
    """For calls that have finished when they return."""

    def milliseconds(self, call: Call, repeats: int = 1) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) * 1e3 / repeats

    def repeats(self, expected_ms: float) -> int:
        return max(1, math.ceil(SHORTEST_SAMPLE_MS / max(expected_ms, 1e-6)))


WALL = WallClock()


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A call and its timer.

    Attributes:
        before: run before every sample, outside the timing.
        pool: whose threads it uses; between different ones there is a pause.
        parts: how many calls of the op one call makes; the time is that of one.
    """

    call: Call
    clock: Clock = WALL
    before: Call | None = None
    pool: str = "torch"
    parts: int = 1

    def sample(self, repeats: int) -> float:
        return self.clock.milliseconds(self.call, repeats) / self.parts

    def prepare(self) -> None:
        if self.before is not None:
            self.before()


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call over its rounds: the median and the 20th and 80th percentile."""

    p20: float
    p50: float
    p80: float
    rounds: int


def summarise(samples: list[float]) -> Timing:
    if len(samples) == 1:
        return Timing(samples[0], samples[0], samples[0], 1)
    fifths = statistics.quantiles(samples, n=5, method="inclusive")
    return Timing(fifths[0], statistics.median(samples), fifths[3], len(samples))


def warm_up(timed: Timed) -> float:
    """Milliseconds of a sample of one call, after a first one that may compile and allocate."""
    timed.prepare()
    timed.call()
    first = timed.sample(1)
    return first if first > 500 else min(first, timed.sample(1))


def plan_rounds(costs_ms: Mapping[str, float], *, seconds: float, least: int, most: int) -> dict[str, int]:
    """How many samples each call gets when all share `seconds` equally: quick calls more, slow calls `least`."""
    share_ms = seconds * 1e3 / len(costs_ms)
    return {name: min(most, max(least, int(share_ms / cost))) for name, cost in costs_ms.items()}


def joins(index: int, rounds: int, samples: int) -> bool:
    """Whether a call with so many samples takes part in round `index` of `rounds`; spread evenly over them."""
    return (index + 1) * samples // rounds > index * samples // rounds


def measure(calls: Mapping[str, Timed], *, seconds: float, least: int = 5, most: int = 101) -> dict[str, Timing]:
    """Time `calls` against each other.

    Interleaving spreads whatever else the machine does over all of them alike, so ratios hold even where times do not.

    Args:
        calls: what to time, by name.
        seconds: about how long all samples may take; slow calls take longer, since each gets at least `least`.
        least: fewest samples of a call.
        most: most samples.

    Returns:
        A Timing for each name. Calls too short for one sample are repeated within it.
    """
    expected = {name: warm_up(timed) for name, timed in calls.items()}
    repeats = {name: timed.clock.repeats(expected[name] * timed.parts) for name, timed in calls.items()}
    costs = {
        name: expected[name] * timed.parts * repeats[name] + (0 if timed.pool == "torch" else 2e3 * SPIN_SECONDS)
        for name, timed in calls.items()
    }
    planned = plan_rounds(costs, seconds=seconds, least=least, most=most)
    rounds = max(planned.values())
    samples: dict[str, list[float]] = {name: [] for name in calls}
    shuffled = random.Random(0)
    order = list(calls)
    pool = None
    for index in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            if not joins(index, rounds, planned[name]):
                continue
            timed = calls[name]
            if pool not in (None, timed.pool):
                time.sleep(SPIN_SECONDS)
            pool = timed.pool
            timed.prepare()
            samples[name].append(timed.sample(repeats[name]))
    return {name: summarise(values) for name, values in samples.items()}
