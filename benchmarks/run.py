"""Times the fused ops against their peers: `python -m benchmarks.run`. benchmarks/README.md says how to read it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import protokern
from benchmarks import gate
from benchmarks.cases import CASES, STANDARD, Case
from benchmarks.inputs import make_inputs
from benchmarks.machine import Machine, describe, settle, watch_others
from benchmarks.peak import NAME, PeakProbe
from benchmarks.peers import PEERS
from benchmarks.providers import BARE_PRODUCT, MODES, OPS, build_calls, check_answers
from benchmarks.results import RESULTS, append_rows
from benchmarks.rows import SpeedRow
from benchmarks.targets import TARGETS
from benchmarks.timing import Timing, measure

SPEED = RESULTS / "speed.csv"
ALL_PEERS = [*PEERS, BARE_PRODUCT]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure and for how long; `seconds` and `least` rounds are for one case and mode."""

    ops: list[str]
    cases: list[str]
    modes: list[str]
    backends: list[str]
    peers: list[str]
    seconds: float
    least: int


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--op", default="min_distance", help=f"comma-separated, of {', '.join(OPS)}")
    parser.add_argument("--case", default=",".join(STANDARD), help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--mode", default="fwd,full", help="fwd, full (forward + backward), or both")
    parser.add_argument("--backend", default="native", help="our backends to time, comma-separated")
    parser.add_argument("--peers", default=",".join(ALL_PEERS), help="what to compare with")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads for every provider")
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long one case and mode may take")
    parser.add_argument("--settle", type=float, default=180.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=SPEED, help="CSV file that the rows are added to")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="CUDA follows with its kernels")
    parser.add_argument("--smoke", action="store_true", help="the tiny case, few rounds, no gate, nothing stored")
    return parser.parse_args(argv)


def make_plan(arguments: argparse.Namespace) -> Plan:
    backends = [name for name, status in protokern.available_backends().items() if status.available]
    peers = names(arguments.peers, ALL_PEERS, "peers")
    if arguments.smoke:
        return Plan(ops=[*OPS], cases=["tiny"], modes=[*MODES], backends=backends, peers=peers, seconds=0.1, least=3)
    return Plan(
        ops=names(arguments.op, OPS, "op"),
        cases=names(arguments.case, list(CASES), "case"),
        modes=names(arguments.mode, MODES, "mode"),
        backends=names(arguments.backend, backends, "backend"),
        peers=peers,
        seconds=arguments.seconds,
        least=11,
    )


def names(text: str, known: Sequence[str], option: str) -> list[str]:
    chosen = text.split(",")
    for name in chosen:
        if name not in known:
            raise SystemExit(f"--{option}: must be of {', '.join(known)}; got {name!r}.")
    return chosen


def run_case(machine: Machine, plan: Plan, op: str, case: Case, mode: str) -> list[SpeedRow]:
    """Check, then time, every provider on one case and mode."""
    inputs = make_inputs(case, requires_grad=mode == "full")
    check_answers(inputs, plan.backends, plan.peers)
    calls = build_calls(op, mode, inputs, plan.backends, plan.peers)
    peak = PeakProbe(torch.get_num_threads())
    with watch_others() as others:
        timings = measure({**calls, NAME: peak}, seconds=plan.seconds, least=plan.least)
    del timings[NAME]
    original, bare = timings.get("original"), timings.get(BARE_PRODUCT)

    def row(name: str, timing: Timing) -> SpeedRow:
        gflops = case.forward_gflop / timing.p50 * 1e3 if mode == "fwd" else None
        return SpeedRow(
            **asdict(machine),
            others=round(others.cores, 2),
            op=op,
            provider=name,
            case=case.name,
            mode=mode,
            dtype="float32",
            threads=torch.get_num_threads(),
            rounds=timing.rounds,
            p20_ms=round(timing.p20, 4),
            p50_ms=round(timing.p50, 4),
            p80_ms=round(timing.p80, 4),
            gflops=None if gflops is None else round(gflops, 2),
            peak_gflops=round(peak.gflops, 1),
            peak_source=peak.source,
            peak_share=None if gflops is None else round(gflops / peak.gflops, 4),
            faster_than_original=None if original is None else round(original.p50 / timing.p50, 3),
            faster_than_mm=None if bare is None else round(bare.p50 / timing.p50, 3),
        )

    return [row(name, timing) for name, timing in timings.items()]


def show(rows: list[SpeedRow]) -> None:
    first = rows[0]
    noise = "" if first.quiet else f"   NOT QUIET: load {first.load}, {first.others} cores busy with other work"
    print(f"\n{first.op} {first.mode} {first.case} ({CASES[first.case].shape}), {first.rounds} rounds{noise}")
    titles = ["p20 ms", "p50 ms", "p80 ms", "GFLOP/s", "of peak", "x original", "x mm"]
    print(f"{'':12}{''.join(f'{title:>12}' for title in titles)}")
    for row in rows:
        times = [f"{value:.3f}" for value in (row.p20_ms, row.p50_ms, row.p80_ms)]
        rates = ["", ""] if row.gflops is None else [f"{row.gflops:.1f}", f"{row.peak_share:.1%}"]
        ratios = ["" if value is None else f"{value:.2f}" for value in (row.faster_than_original, row.faster_than_mm)]
        print(f"{row.provider:12}{''.join(f'{cell:>12}' for cell in [*times, *rates, *ratios])}")
    print(f"{'peak':12}{first.peak_gflops:48.1f}   {first.peak_source}")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if arguments.device == "cuda":
        raise SystemExit(
            "--device: must be cpu; got 'cuda'. The CUDA kernels and their timing are not in this version."
        )
    plan = make_plan(arguments)
    settle(0 if arguments.smoke else arguments.settle)
    machine = describe()
    torch.set_num_threads(arguments.threads)
    print(f"{machine.device}, {machine.cores} cores, {machine.isa}, torch {machine.torch_version}, {machine.git_sha}")
    if not arguments.smoke:
        for op in plan.ops:
            gate.require_green(gate.op_tests(op))
    rows: list[SpeedRow] = []
    for op in plan.ops:
        for case in plan.cases:
            for mode in plan.modes:
                measured = run_case(machine, plan, op, CASES[case], mode)
                show(measured)
                rows += measured
                if not arguments.smoke:
                    append_rows(arguments.out, measured)
    if not arguments.smoke:
        print("\nTargets")
        for target in TARGETS:
            print(f"  {target.verdict(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
