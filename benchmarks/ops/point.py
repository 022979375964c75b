"""One comparison: check every provider's answer, time all of them together, make their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch

from benchmarks.ops.answers import WrongAnswerError, check_answer, exact_answer
from benchmarks.ops.cases import CASES, Case, Inputs, Point, make_inputs
from benchmarks.ops.devices import Device, peak_name
from benchmarks.ops.libraries import MissingPeerError
from benchmarks.ops.machine import Machine, watch_others
from benchmarks.ops.ops import OPS, Op
from benchmarks.ops.peak import Limit
from benchmarks.ops.peers import output_buffer
from benchmarks.ops.providers import COMPILED, Missing, Provider, build_providers, describe_flags
from benchmarks.ops.tiles import tiles_of
from benchmarks.ops.timing import Timed, Timing, measure
from benchmarks.pages.rows import SpeedRow
from protokern.errors import BackendUnavailableError

Key = tuple[str, str, str]  # provider, precision, timer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What takes part in every comparison and for how long.

    Attributes:
        seconds: about how long the timing of one comparison takes.
        least: fewest rounds of a slow call.
    """

    backends: list[str]
    peers: list[str]
    precisions: list[str]
    seconds: float
    least: int


@dataclass
class Outcome:
    """What came of one comparison.

    Attributes:
        wrong: providers of ours that gave a wrong answer or could not run although they are offered.
    """

    rows: list[SpeedRow] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    wrong: list[Missing] = field(default_factory=list)


@dataclass(frozen=True)
class Rates:
    """The limits as measured in one comparison; operations and bytes a second, in units of 1e9."""

    limits: dict[str, Limit]
    values: dict[str, float]

    def peak(self, precision: str) -> float:
        return self.values[peak_name(self.limits, precision)]

    def arithmetic(self, precision: str) -> float:
        """Useful operations per second. On CUDA, float32 can also come from three products of bfloat16 parts."""
        if precision == "fp32" and "peak bf16" in self.values:
            return max(self.values["peak fp32"], self.values["peak bf16"] / 3)
        return self.peak(precision)

    def floor(self, case: Case, precision: str) -> tuple[float, str]:
        """Least milliseconds of a forward pass, and what sets it."""
        arithmetic = case.forward_gflop / self.arithmetic(precision) * 1e3
        memory = case.forward_bytes / self.values["copy"] * 1e-6
        return (arithmetic, "arithmetic") if arithmetic >= memory else (memory, "memory")


def run_point(machine: Machine, device: Device, plan: Plan, point: Point, *, may_compile: bool = True) -> Outcome:
    """Measure one point; `may_compile` tells whether there is time for peers that compile."""
    case, op = CASES[point.case], OPS[point.op]
    if point.threads is not None:
        torch.set_num_threads(point.threads)
    outcome = Outcome()
    inputs = make_sets(device, case, needs_grad=point.mode == "full")
    peers = [name for name in plan.peers if point.takes(name)]
    providers, outcome.missing = build_providers(op, point.mode, device.kind, plan.backends, peers, plan.precisions)
    if len(peers) < len(plan.peers):
        left_out = [name for name in plan.peers if name not in peers]
        outcome.missing.append(Missing(f"{point.name}: {', '.join(left_out)}", "left out, to keep the set short"))
    if not may_compile:
        late = Missing(f"what compiles, {point.name}", "the run's time is up")
        outcome.missing += [late] if any(provider.compiles for provider in providers) else []
        providers = [provider for provider in providers if not provider.compiles]
    if any(provider.name == COMPILED for provider in providers):
        # torch.compile keeps what it made for other points and refuses to make more than a few.
        torch.compiler.reset()
    timed = make_timers(device, op, providers, inputs, outcome)
    limits = device.limits(torch.get_num_threads())
    with watch_others() as others:
        timings = measure(
            {**{" ".join(key): call for key, call in timed.items()}, **{name: limits[name].timed for name in limits}},
            seconds=plan.seconds,
            least=plan.least,
        )
    rates = Rates(limits, {name: limit.rate(timings[name]) for name, limit in limits.items()})
    by_key = {key: timings[" ".join(key)] for key in timed}
    common = {**asdict(machine), "others": round(others.cores, 2), "op": point.op, "case": point.case}
    common |= {"mode": point.mode, "dtype": "float32", "threads": torch.get_num_threads()}
    common |= {"versions": device.versions(), "clocks": device.clocks()}
    outcome.rows = [make_row(common, key, by_key, rates, device.kind) for key in by_key]
    output_buffer.cache_clear()
    return outcome


def make_sets(device: Device, case: Case, *, needs_grad: bool) -> list[Inputs]:
    first = make_inputs(case, requires_grad=needs_grad, device=device.place)
    seeds = range(1, device.input_sets(first.bytes))
    return [first, *(make_inputs(case, requires_grad=needs_grad, seed=seed, device=device.place) for seed in seeds)]


def make_timers(
    device: Device, op: Op, providers: Sequence[Provider], inputs: list[Inputs], outcome: Outcome
) -> dict[Key, Timed]:
    """What to time of the providers whose answers are right; what is not goes into `outcome`."""
    exact = exact_answer(inputs[0], op)
    timed: dict[Key, Timed] = {}
    for provider in providers:
        try:
            check_answer(provider, inputs[0], op, exact)
            timers, missing = device.timers(provider, inputs)
        except MissingPeerError as error:
            refused = isinstance(error.__cause__, ValueError | BackendUnavailableError)
            broken = provider.kind == "ours" and not refused
            (outcome.wrong if broken else outcome.missing).append(Missing(provider.label, str(error)))
        except WrongAnswerError as error:
            wrong = outcome.wrong if provider.kind == "ours" else outcome.missing
            wrong.append(Missing(provider.label, f"wrong answer: {error}"))
        else:
            timed |= {(provider.name, provider.precision, timer): one for timer, one in timers.items()}
            outcome.missing += missing
    return timed


def make_row(common: dict[str, object], key: Key, timings: dict[Key, Timing], rates: Rates, kind: str) -> SpeedRow:
    name, precision, timer = key
    timing = timings[key]
    case = CASES[str(common["case"])]
    forward = common["mode"] == "fwd"
    gflops = case.forward_gflop / timing.p50 * 1e3 if forward else None
    floor, bound = rates.floor(case, precision)
    original = timings.get(("original", "tf32" if kind == "cuda" else "fp32", timer))
    bare = timings.get(("mm", precision, timer))
    peak = rates.peak(precision)
    return SpeedRow(
        **common,  # type: ignore[arg-type]
        provider=name,
        rounds=timing.rounds,
        p20_ms=round(timing.p20, 5),
        p50_ms=round(timing.p50, 5),
        p80_ms=round(timing.p80, 5),
        gflops=None if gflops is None else round(gflops, 2),
        peak_gflops=round(peak, 1),
        peak_source=rates.limits[peak_name(rates.limits, precision)].source,
        peak_share=None if gflops is None else round(gflops / peak, 4),
        faster_than_original=None if original is None else round(original.p50 / timing.p50, 3),
        faster_than_mm=None if bare is None else round(bare.p50 / timing.p50, 3),
        precision=precision,
        timer=timer,
        gbytes_per_s=round(rates.values["copy"], 2),
        floor_ms=round(floor, 5) if forward else None,
        floor_bound=bound if forward else "",
        flags=describe_flags(precision),
        tiles=tiles_of(str(common["op"]), case, precision, str(common["isa"])) if name == "triton" else "",
    )
