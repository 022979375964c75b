"""Stage b: every op on every backend in every type against float64; forward, backward, copies, NaN and ties.

The truth is that of the tests, which share nothing with the package: distances by the formula alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from benchmarks.gpu.plan import Records, Settings, Unit
from benchmarks.gpu.smoke_checks import Check, Problem, check_copies, check_non_finite, check_ties, check_values
from benchmarks.gpu.smoke_table import BACKENDS, KINDS, OPS, SEARCHES, UNWEIGHTED_OP, WEIGHTED, unit_name
from benchmarks.gpu.worker import Result
from protokern.errors import BackendUnavailableError
from protokern.kernels.backends import choose_backend
from tests.kernels.cases import Case

# Past one tile of everything; few prototypes on a fine grid; larger patches with odd sizes.
SHAPES = {
    "D128-7x7-P300": Case(3, 128, 7, 7, 300),
    "D64-17x19-P190": Case(2, 64, 17, 19, 190),
    "D17-9x8-P70-2x3": Case(2, 17, 9, 8, 70, (2, 3)),
}
TINY = {"D5-4x3-P7": Case(2, 5, 4, 3, 7), "D3-4x5-P6-2x3": Case(2, 3, 4, 5, 6, (2, 3))}
# What a rehearsal can tell: products of half numbers are wrong in Triton's interpreter, and most processors have one
# precision.
REHEARSED = {
    "triton": ("float32", "cosine"),
    "native": ("float32", "bfloat16", "float16", "float64", "cosine", *WEIGHTED),
}


@dataclass(frozen=True, kw_only=True)
class SmokeRow:
    """One check of one op.

    Attributes:
        error: the largest, as the check measures it; `allowed` is its bound.
        seconds: of all checks of the unit, compiling included.
    """

    commit: str
    device: str
    op: str
    backend: str
    dtype: str
    precision: str
    metric: str
    shape: str
    check: str
    verdict: str
    error: float
    allowed: float
    seconds: float


def check_units(settings: Settings, records: Records) -> list[Unit]:
    """Shapes outermost, then types: what matters most to most comes first."""
    units: list[Unit] = []
    for shape in TINY if settings.rehearse else SHAPES:
        for kind in KINDS:
            for op in OPS:
                for backend in BACKENDS:
                    if kind in ("tf32", "bf16") and op not in SEARCHES:
                        continue
                    if kind in WEIGHTED and op == UNWEIGHTED_OP:
                        continue
                    if settings.rehearse and kind not in REHEARSED[backend]:
                        continue
                    name = unit_name(backend, op, kind, shape)
                    units.append({"name": name, "op": op, "backend": backend, "kind": kind, "shape": shape})
    return units


def check(unit: Unit, settings: Settings) -> Result:
    begun = time.monotonic()
    place = torch.device("cpu" if settings.rehearse else "cuda")
    case = (TINY if settings.rehearse else SHAPES)[unit["shape"]]
    dtype_name, precision, metric = KINDS[unit["kind"]]
    problem = Problem(
        op=unit["op"], backend=unit["backend"], case=case, dtype=getattr(torch, dtype_name), metric=metric,
        precision=precision, place=place, is_weighted=unit["kind"] in WEIGHTED,
    )  # fmt: skip
    try:
        taken = choose_backend(problem.backend, place, problem.dtype, precision).precision
        if precision not in (None, taken):
            text = f"precision: {problem.backend} searches in {taken} on {place.type}, not in {precision}"
            return Result(status="missing", text=text)
        values, clean = check_values(problem)
    # A missing build is not an error of the kernels.
    except BackendUnavailableError as error:
        return Result(status="missing", text=str(error))
    checks = [*values, *check_copies(problem, clean), *check_non_finite(problem, clean), *check_ties(problem)]
    took = round(time.monotonic() - begun, 2)
    device = torch.cuda.get_device_name() if place.type == "cuda" else "the processor"
    common = {
        "commit": settings.commit, "device": device, "op": problem.op, "backend": problem.backend, "dtype": dtype_name,
        "precision": precision or "", "metric": metric, "shape": unit["shape"], "seconds": took,
    }  # fmt: skip
    rows = [as_row(common, one) for one in checks]
    wrong = [one for one in checks if not one.is_right]
    return Result(
        status="wrong" if wrong else "right",
        text=describe(wrong) if wrong else f"{len(checks)} checks, {took:g} s",
        tables={"smoke": [asdict(row) for row in rows]},
    )


def as_row(common: dict[str, object], one: Check) -> SmokeRow:
    verdict = "right" if one.is_right else "wrong"
    return SmokeRow(**common, check=one.name, verdict=verdict, error=one.error, allowed=one.allowed)  # type: ignore[arg-type]


def describe(wrong: Sequence[Check]) -> str:
    worst = "; ".join(f"{one.name} {one.error:.3g}, allowed {one.allowed:.3g}" for one in wrong)
    return f"largest errors: {worst}"
