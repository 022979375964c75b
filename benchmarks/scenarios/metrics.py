"""What each metric costs `min_distance`: `python -m benchmarks metrics`.

The same search with the squared distance, the cosine and the dot product, in turns, so that the ratios hold also on a
machine that is busy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.ops.cases import CASES, Case, Inputs, make_inputs
from benchmarks.ops.machine import Machine, watch_others
from benchmarks.ops.timing import Timed, measure
from benchmarks.pages.results import METRICS, append_rows
from benchmarks.pages.scenario_rows import MetricRow
from benchmarks.pages.targets import judged
from benchmarks.scenarios.scenario import begin, columns, flags, time_columns
from protokern import min_distance
from protokern.choices import METRICS as NAMES

STANDARD = ("cub200", "grid14")
BOUND = 0.95  # speed of a dot product as a share of the cosine's: it needs no lengths


def make_step(inputs: Inputs, metric: str, mode: str, backend: str) -> Callable[[], object]:
    """One search, with its backward in the mode `full`."""

    def step() -> object:
        found = min_distance(inputs.features, inputs.prototypes, metric=metric, backend=backend)
        leaves = [inputs.features, inputs.prototypes]
        return found if mode == "fwd" else torch.autograd.grad(found.value, leaves, inputs.grad)

    return step


def run_case(machine: Machine, case: Case, mode: str, backend: str, seconds: float) -> list[MetricRow]:
    """Time the metrics against each other."""
    inputs = make_inputs(case, requires_grad=mode == "full")
    calls: dict[str, Timed] = {name: Timed(call=make_step(inputs, name, mode, backend)) for name in NAMES}
    with watch_others() as others:
        timings = measure(calls, seconds=seconds)
    return [
        MetricRow(
            **columns(machine, others),
            **time_columns(timing),
            case=case.name,
            mode=mode,
            backend=backend,
            metric=name,
            speed_of_cosine=round(timings["cosine"].p20 / timing.p20, 4),
        )
        for name, timing in timings.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("metrics", __doc__, METRICS)
    parser.add_argument("--cases", default=",".join(STANDARD), help="comma-separated names of benchmarks/ops/cases.py")
    parser.add_argument("--modes", default="fwd,full", help="fwd, full (forward + backward), or both")
    parser.add_argument("--backend", default="native")
    parser.add_argument("--seconds", type=float, default=6.0, help="about how long a case is timed in each mode")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    machine = begin(arguments, "kernels/test_dot.py")
    for name in arguments.cases.split(","):
        for mode in arguments.modes.split(","):
            rows = run_case(machine, CASES[name], mode, arguments.backend, arguments.seconds)
            append_rows(arguments.out, rows)
            for row in rows:
                line = f"{name:8} {mode:5} {row.metric:12} {row.p20_ms:9.3f} {row.p50_ms:9.3f} ms"
                speed = row.speed_of_cosine
                told = f"{line} {speed:7.3f} x"
                print(judged(told, f">= {BOUND:g} x", speed >= BOUND) if row.metric == "dot" else told)
    return 0
