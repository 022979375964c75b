"""What the smoke units are called, and the table of what came of them. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from benchmarks.gpu.plan import Record

BACKENDS = ("triton", "native")
OPS = ("min_distance", "prototype_pool", "mean_activation", "topk_pool", "distance_map", "distance_at")
# Whose search can round; the others take no precision.
SEARCHES = OPS[:4]
# Dtype of the inputs, precision of the search (None: as the dtype has it) and metric, by the name of the column; the
# most important first.
KINDS: dict[str, tuple[str, str | None, str]] = {
    "float32": ("float32", "fp32", "sqeuclidean"),
    "tf32": ("float32", "tf32", "sqeuclidean"),
    "bf16": ("float32", "bf16", "sqeuclidean"),
    "bfloat16": ("bfloat16", None, "sqeuclidean"),
    "float16": ("float16", None, "sqeuclidean"),
    "float64": ("float64", None, "sqeuclidean"),
    "cosine": ("float32", "fp32", "cosine"),
    "weights": ("float32", "fp32", "sqeuclidean"),
    "weights-cos": ("float32", "fp32", "cosine"),
}
# With weights of the patches, which one op does not take.
WEIGHTED = ("weights", "weights-cos")
UNWEIGHTED_OP = "mean_activation"


def unit_name(backend: str, op: str, kind: str, shape: str) -> str:
    return f"{backend} {op} {kind} {shape}"


def smoke_table(records: Mapping[str, Record]) -> str:
    """A line for each op and backend, a column for each kind; of several shapes the worst counts are named."""
    cells: dict[tuple[str, str, str], Counter[str]] = {}
    for name, record in records.items():
        backend, op, kind, _ = name.split(" ", 3)
        cells.setdefault((op, backend, kind), Counter())[record.status] += 1
    lines = [f"{'':26}" + "".join(f"{kind:>13}" for kind in KINDS)]
    for op in OPS:
        for backend in BACKENDS:
            counts = [cells.get((op, backend, kind)) for kind in KINDS]
            if any(counts):
                texts = "".join(f"{cell(count):>13}" for count in counts)
                lines.append(f"{op + ' ' + backend:26}{texts}")
    return "\n".join(lines)


def cell(counts: Counter[str] | None) -> str:
    """Such as "3 right" or "2 WRONG"; what is worse hides what is better."""
    if not counts:
        return ""
    for status in ("crashed", "overran", "wrong", "cut", "missing", "right"):
        if counts[status]:
            return f"{counts[status]} {status if status in ('right', 'missing', 'cut') else status.upper()}"
    return ""


def broken(records: Mapping[str, Record]) -> dict[str, list[str]]:
    """Backends by op that crashed or hung on float32 inputs without weights: nothing else is begun with them."""
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        backend, op, kind, _ = name.split(" ", 3)
        if record.status in ("crashed", "overran") and KINDS[kind][0] == "float32" and kind not in WEIGHTED:
            found.setdefault(op, []).append(backend)
    return {op: sorted(set(backends)) for op, backends in found.items()}
