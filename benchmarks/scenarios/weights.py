"""What weights of the patches cost `prototype_pool`: `python -m benchmarks weights`.

The same call without weights, with a random weight for each patch, and with a mask that takes a quarter of them out.
The three take turns, so the ratios hold also on a machine that is busy. In the mode `full` the weights want a gradient
too, where they are numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.ops.cases import CASES, Case, Inputs, make_inputs
from benchmarks.ops.machine import Machine, watch_others
from benchmarks.ops.timing import Timed, measure
from benchmarks.pages.results import WEIGHTS, append_rows
from benchmarks.pages.scenario_rows import WeightRow
from benchmarks.scenarios.scenario import begin, columns, flags, time_columns
from protokern import prototype_pool

STANDARD = ("cub200", "pool202")
METRICS = ("cosine", "sqeuclidean")


def make_weights(case: Case) -> dict[str, Tensor | None]:
    """The weights (B, H, W) of every kind of call; none for the plain one."""
    drawn = torch.rand(case.images, case.height, case.width, generator=torch.Generator().manual_seed(1))
    return {"none": None, "numbers": drawn * 0.9 + 0.1, "mask": drawn > 0.25}


def make_step(inputs: Inputs, weight: Tensor | None, metric: str, mode: str, backend: str) -> Callable[[], object]:
    """One call, with its backward in the mode `full`."""
    leaves = [inputs.features, inputs.prototypes]
    if mode == "full" and weight is not None and weight.is_floating_point():
        weight = weight.clone().requires_grad_()
        leaves.append(weight)

    def step() -> object:
        pool = prototype_pool(inputs.features, inputs.prototypes, metric=metric, backend=backend, patch_weight=weight)
        return pool if mode == "fwd" else torch.autograd.grad(pool.activation, leaves, inputs.grad)

    return step


def run_case(machine: Machine, case: Case, metric: str, mode: str, backend: str, seconds: float) -> list[WeightRow]:
    """Time the three kinds of a call against each other."""
    inputs = make_inputs(case, requires_grad=mode == "full")
    calls = {
        kind: Timed(call=make_step(inputs, weight, metric, mode, backend))
        for kind, weight in make_weights(case).items()
    }
    with watch_others() as others:
        timings = measure(calls, seconds=seconds)
    return [
        WeightRow(
            **columns(machine, others),
            **time_columns(timing),
            case=case.name,
            metric=metric,
            mode=mode,
            backend=backend,
            weights=kind,
            slower_than_none=round(timing.p20 / timings["none"].p20, 4),
        )
        for kind, timing in timings.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("weights", __doc__, WEIGHTS)
    parser.add_argument("--cases", default=",".join(STANDARD), help="comma-separated names of benchmarks/ops/cases.py")
    parser.add_argument("--modes", default="fwd,full", help="fwd, full (forward + backward), or both")
    parser.add_argument("--backend", default="native")
    parser.add_argument("--seconds", type=float, default=6.0, help="about how long a case is timed in each mode")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    machine = begin(arguments, "kernels/test_patch_weight.py", "kernels/test_patch_weight_edges.py")
    for name in arguments.cases.split(","):
        for metric in METRICS:
            for mode in arguments.modes.split(","):
                rows = run_case(machine, CASES[name], metric, mode, arguments.backend, arguments.seconds)
                append_rows(arguments.out, rows)
                for row in rows:
                    print(
                        f"{name:10} {metric:12} {mode:5} {row.weights:8} {row.p20_ms:9.3f} {row.p50_ms:9.3f} ms"
                        f" {row.slower_than_none:7.3f} x"
                    )
    return 0
