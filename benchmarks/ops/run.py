"""Times the fused ops against their peers: `python -m benchmarks ops`. benchmarks/README.md says how to read it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import protokern
from benchmarks.ops import base, cuda, gate
from benchmarks.ops.cases import CASES, CUDA_POINTS, SETS, Point
from benchmarks.ops.devices import Cpu, Device
from benchmarks.ops.machine import settle
from benchmarks.ops.ops import OPS
from benchmarks.ops.point import Plan, run_point
from benchmarks.ops.providers import ALL_PEERS, MODES, PRECISIONS, Missing
from benchmarks.pages.results import SPEED, append_rows
from benchmarks.pages.rows import SpeedRow
from benchmarks.pages.show import show_missing, show_rows
from benchmarks.pages.targets import summary


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ops", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--set", default="standard", choices=list(SETS), help="what to measure on the CPU")
    parser.add_argument("--op", help=f"comma-separated, of {', '.join(OPS)}")
    parser.add_argument("--case", help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--mode", help="fwd, full (forward + backward), or both")
    parser.add_argument("--threads", help="comma-separated; for every provider")
    parser.add_argument("--backend", help="our backends to time, comma-separated; by default all that are built")
    parser.add_argument("--peers", default=",".join(ALL_PEERS), help="what to compare with")
    parser.add_argument("--precision", default=",".join(PRECISIONS), help="comma-separated")
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long the timing of one comparison takes")
    parser.add_argument("--minutes", type=float, default=7.0, help="after this many, nothing new starts")
    parser.add_argument("--settle", type=float, default=180.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=SPEED, help="CSV file that the rows are added to")
    parser.add_argument("--base", metavar="REV", help="compare ours with those of this revision; nothing is stored")
    parser.add_argument("--smoke", action="store_true", help="the tiny case, few rounds, no gate, nothing stored")
    return parser.parse_args(argv)


def names(text: str, known: Sequence[str], option: str) -> list[str]:
    chosen = text.split(",")
    for name in chosen:
        if name not in known:
            raise SystemExit(f"--{option}: must be of {', '.join(known)}; got {name!r}.")
    return chosen


def thread_counts(text: str | None) -> list[int | None]:
    if text is None:
        return [None]
    if not all(part.isdecimal() and int(part) > 0 for part in text.split(",")):
        raise SystemExit(f"--threads: must be positive whole numbers; got {text!r}.")
    return [int(part) for part in text.split(",")]


def make_points(arguments: argparse.Namespace) -> list[Point]:
    """The standard set, or every combination of what was named; what was not named comes from the standard set."""
    standard = SETS[arguments.set] if arguments.device == "cpu" else CUDA_POINTS
    if arguments.smoke:
        return [Point(op, "tiny", mode) for op in OPS for mode in MODES]
    named = (arguments.op, arguments.case, arguments.mode, arguments.threads)
    if named == (None,) * len(named):
        return list(standard)
    ops = ["min_distance"] if arguments.op is None else names(arguments.op, list(OPS), "op")
    modes = list(MODES) if arguments.mode is None else names(arguments.mode, MODES, "mode")
    if arguments.case is None:
        cases = list(dict.fromkeys(point.case for point in standard))
    else:
        cases = names(arguments.case, list(CASES), "case")
    threads = thread_counts(arguments.threads)
    return [Point(op, case, mode, count) for op in ops for case in cases for mode in modes for count in threads]


def our_backends(device: str) -> tuple[list[str], list[Missing]]:
    """Which of our backends run on a kind of device, and why the others do not."""
    able: list[str] = []
    missing: list[Missing] = []
    for name, status in protokern.available_backends().items():
        if name == "triton" and device == "cpu":
            missing.append(Missing(name, "its interpreter is for tests and is never timed"))
        elif status.available and {"any", device} & {*status.devices}:
            able.append(name)
        else:
            missing.append(Missing(name, status.reason or f"does not run on {device}"))
    return able, missing


def make_plan(arguments: argparse.Namespace) -> tuple[Plan, list[Missing]]:
    """Who takes part, and which of our backends cannot."""
    able, missing = our_backends(arguments.device)
    if arguments.backend is not None:
        backends, missing = names(arguments.backend, able, "backend"), []
    else:
        # The reference is for its numbers; it is timed when it is named.
        backends = [name for name in able if name != "reference" or arguments.smoke]
    plan = Plan(
        backends=backends,
        peers=names(arguments.peers, ALL_PEERS, "peers"),
        precisions=names(arguments.precision, PRECISIONS, "precision"),
        seconds=0.1 if arguments.smoke else arguments.seconds,
        least=3 if arguments.smoke else 5,
    )
    return plan, missing


def open_device(kind: str) -> Device:
    return Cpu() if kind == "cpu" else cuda.open_cuda()


def run_all(arguments: argparse.Namespace, device: Device) -> int:
    """Measure every point; 1 where an answer of ours was wrong, else 0."""
    plan, missing = make_plan(arguments)
    points = make_points(arguments)
    machine = device.describe()
    print(f"{machine.device}, {machine.cores} cores, {machine.isa}, torch {machine.torch_version}, {machine.git_sha}")
    print(device.versions())
    end = time.monotonic() + 60 * arguments.minutes
    if not arguments.smoke:
        tests = [gate.op_tests(point.op, device.kind) for point in points]
        gate.require_green(list(dict.fromkeys(tests)), device.kind)
    rows: list[SpeedRow] = []
    wrong: list[Missing] = []
    threads = torch.get_num_threads()
    for index, point in enumerate(points):
        left = end - time.monotonic()
        if left <= 0:
            late = [rest.name for rest in points[index:]]
            missing.append(Missing(", ".join(late), f"the {arguments.minutes:g} minutes are up"))
            break
        # What is left must hold every later point without what compiles.
        may_compile = left > 2 * plan.seconds * (len(points) - index)
        outcome = run_point(machine, device, plan, point, may_compile=may_compile)
        torch.set_num_threads(threads)
        device.release()
        missing += outcome.missing
        wrong += outcome.wrong
        rows += outcome.rows
        show_rows(outcome.rows)
        if not arguments.smoke:
            append_rows(arguments.out, outcome.rows)
    show_missing(missing, wrong)
    if not arguments.smoke:
        print("\nTargets")
        for line in summary(rows, device.kind):
            print(f"  {line}")
    return 1 if wrong else 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    points = make_points(arguments)  # a wrong name ends the run before any waiting
    if arguments.base is not None:
        return base.run(arguments, *make_plan(arguments), points)
    device = open_device(arguments.device)
    settle(0 if arguments.smoke or arguments.device == "cuda" else arguments.settle)
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        return run_all(arguments, device)
    finally:
        torch.backends.cudnn.allow_tf32 = cudnn
        torch.set_float32_matmul_precision(matmul)
