"""Times several calls fairly on one machine: in one process, round by round, each round in a new random order."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Call = Callable[[], object]
SHORTEST_SAMPLE_MS = 1.0


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call over all rounds: the median and the 20th and 80th percentile."""

    p20: float
    p50: float
    p80: float
    rounds: int


def summarise(samples: list[float]) -> Timing:
    if len(samples) == 1:
        return Timing(samples[0], samples[0], samples[0], 1)
    fifths = statistics.quantiles(samples, n=5, method="inclusive")
    return Timing(fifths[0], statistics.median(samples), fifths[3], len(samples))


def milliseconds(call: Call, repeats: int = 1) -> float:
    """Average time of one call over `repeats` calls in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) * 1e3 / repeats


def measure(calls: Mapping[str, Call], *, seconds: float, least: int = 11, most: int = 101) -> dict[str, Timing]:
    """Time `calls` against each other.

    Interleaving spreads whatever else the machine does over all of them alike, so ratios hold even where times do not.

    Args:
        calls: what to time, by name.
        seconds: rounds are planned to take about this long in all, within `least` and `most` rounds.
        least: fewest rounds.
        most: most rounds.

    Returns:
        A Timing for each name; calls under a millisecond are repeated within a round until they reach one.
    """
    expected = {name: min(milliseconds(call) for _ in range(3)) for name, call in calls.items()}
    repeats = {name: max(1, math.ceil(SHORTEST_SAMPLE_MS / ms)) for name, ms in expected.items()}
    round_ms = sum(expected[name] * repeats[name] for name in calls)
    rounds = min(most, max(least, int(seconds * 1e3 / round_ms)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    shuffled = random.Random(0)
    order = list(calls)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            samples[name].append(milliseconds(calls[name], repeats[name]))
    return {name: summarise(values) for name, values in samples.items()}
