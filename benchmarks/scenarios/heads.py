"""Forward and backward of models' heads against the formulas of their releases: `python -m benchmarks heads`.

Ours and the released formula take turns. Before that, values and gradients of both are compared with the released
formula in float64, on a smaller case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from benchmarks.ops.machine import Machine, watch_others
from benchmarks.ops.timing import Timed, measure
from benchmarks.pages.results import HEADS, append_rows
from benchmarks.pages.scenario_rows import HeadRow
from benchmarks.pages.show import not_quiet
from benchmarks.pages.targets import judged
from benchmarks.scenarios import prototree_formulas, tesnet_formulas
from benchmarks.scenarios.scenario import begin, columns, flags, time_columns
from benchmarks.scenarios.tesnet_formulas import Step

OURS = "protokern"
PROVIDERS = (OURS, "original")
TOLERANCE = 3e-5  # of the largest entry of a tensor


class HeadCase(Protocol):
    """A head of some size.

    Attributes:
        name: of the model, and what of it is computed.
        size: for people.
        bound: how many times faster than the release it has to be.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> str: ...

    @property
    def bound(self) -> float: ...

    def smaller(self) -> HeadCase:
        """One that is quickly computed in float64."""
        ...

    def steps(self) -> Mapping[str, Step]:
        """A step of "protokern", of "original", and of "exact", the original in float64."""
        ...


CASES: dict[str, HeadCase] = {case.name: case for case in (*tesnet_formulas.CASES, *prototree_formulas.CASES)}


def errors(case: HeadCase) -> dict[str, float]:
    """How far the results of each provider are from the released formula in float64.

    Relative to the largest entry of the tensor; the largest over the tensors.
    """
    steps = case.smaller().steps()
    exact = steps["exact"]()
    return {
        name: max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(steps[name](), exact, strict=True))
        for name in PROVIDERS
    }


def run_case(machine: Machine, case: HeadCase, seconds: float) -> list[HeadRow]:
    """Check and time both."""
    found = errors(case)[OURS]
    if not found <= TOLERANCE:
        raise RuntimeError(f"{case.name}: must be within {TOLERANCE:g} of the released formula; got {found:.2g}.")
    steps = case.steps()
    with watch_others() as others:
        timings = measure({name: Timed(call=steps[name]) for name in PROVIDERS}, seconds=seconds)
    return [
        HeadRow(
            **columns(machine, others),
            **time_columns(timing),
            provider=name,
            case=case.name,
            size=case.size,
            faster_than_original=round(timings["original"].p50 / timing.p50, 3),
        )
        for name, timing in timings.items()
    ]


def show(rows: Sequence[HeadRow], bound: float) -> None:
    first = rows[0]
    print(f"\n{first.case}, {first.size}, {first.threads} threads{not_quiet(first)}")
    for row in rows:
        print(f"{row.provider:12}{row.p50_ms:10.2f} ms {row.faster_than_original:7.2f} x")
        if row.provider == OURS:
            ratio = row.faster_than_original
            print(judged(f"{'':12}{ratio:.2f} x the original", f">= {bound:g} x", ratio >= bound))


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("heads", __doc__, HEADS)
    parser.add_argument("--cases", default=";".join(CASES), help=f"separated by semicolons, of {'; '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=8.0, help="about how long a case is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    cases = [CASES[name.strip()] for name in arguments.cases.split(";")]
    torch.set_num_threads(arguments.threads)
    machine = begin(arguments, "test_tesnet_losses.py", "models/test_tesnet.py", "models/test_prototree.py")
    for case in cases:
        rows = run_case(machine, case, arguments.seconds)
        show(rows, case.bound)
        append_rows(arguments.out, rows)
    return 0
