"""Stored rows, sorted into comparisons: the newest of each kind, with every provider's row by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.ops.cases import CASES
from benchmarks.pages.rows import SpeedRow

OURS = ("triton", "native", "reference")
LINES = ("mm", "mm+min")


@dataclass
class Comparison:
    """All rows of one op, case, mode, instruction set and number of threads, from one run."""

    rows: list[SpeedRow] = field(default_factory=list)

    @property
    def first(self) -> SpeedRow:
        return self.rows[0]

    def find(self, provider: str, precision: str = "fp32", timer: str = "eager") -> SpeedRow | None:
        wanted = (provider, precision, timer)
        return next((row for row in self.rows if (row.provider, row.precision, row.timer) == wanted), None)

    def ours(self, precision: str | None = None, timer: str = "eager") -> SpeedRow | None:
        """The quickest of our own backends, the reference left out."""
        return quickest(row for row in self.matching(precision, timer) if row.provider in OURS[:2])

    def peers(self, precision: str | None = None, timer: str = "eager") -> list[SpeedRow]:
        """Others that computed the same."""
        return [row for row in self.matching(precision, timer) if row.provider not in (*OURS, *LINES)]

    def matching(self, precision: str | None, timer: str) -> list[SpeedRow]:
        return [row for row in self.rows if row.timer == timer and precision in (None, row.precision)]


def quickest(rows: Iterable[SpeedRow]) -> SpeedRow | None:
    return min(rows, key=lambda row: row.p50_ms, default=None)


def newest(rows: Sequence[SpeedRow]) -> list[Comparison]:
    """For every op, case, mode, device, instruction set and number of threads, the rows of its newest run.

    They come in the order of cases.py, the forward pass first, the most threads first.
    """
    groups: dict[tuple[str, str, str, str, str, int], Comparison] = {}
    for row in rows:
        key = (row.op, row.case, row.mode, row.device, row.isa, row.threads)
        group = groups.setdefault(key, Comparison())
        if group.rows and (group.first.date, group.first.git_sha) != (row.date, row.git_sha):
            group.rows.clear()
        group.rows.append(row)
    order = {name: index for index, name in enumerate(CASES)}
    ops = list(dict.fromkeys(row.op for row in rows))
    return sorted(
        groups.values(),
        key=lambda group: (
            group.first.on_cuda,
            ops.index(group.first.op),
            order[group.first.case],
            group.first.mode != "fwd",
            group.first.isa,
            -group.first.threads,
        ),
    )
