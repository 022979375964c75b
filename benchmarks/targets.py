"""The numbers the kernels have to reach, and whether a set of rows reaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.rows import SpeedRow


@dataclass(frozen=True)
class Target:
    """At least `bound` for one quantity of the native backend's `min_distance`, on one case and mode.

    Attributes:
        quantity: what is compared, for people.
        read: takes the quantity from a row; None where the row has no such number.
    """

    case: str
    mode: str
    bound: float
    quantity: str
    read: Callable[[SpeedRow], float | None]

    def verdict(self, rows: Iterable[SpeedRow]) -> str:
        """One line: what was wanted, what was measured last, reached or missed."""
        measured = None
        for row in rows:
            if (row.op, row.provider, row.case, row.mode) == ("min_distance", "native", self.case, self.mode):
                measured = self.read(row)
        wanted = f"{self.case} {self.mode}: {self.quantity} >= {self.bound:g}"
        if measured is None:
            return f"{wanted}: not measured"
        return f"{wanted}: {measured:.2f}, {'reached' if measured >= self.bound else 'MISSED'}"


def _speed_targets(case: str, *, full: float) -> list[Target]:
    return [
        Target(case, "fwd", 8.0, "times faster than the original formula", lambda row: row.faster_than_original),
        Target(case, "fwd", 2.0, "times faster than torch.mm alone", lambda row: row.faster_than_mm),
        Target(case, "fwd", 0.75, "share of the FMA peak", lambda row: row.peak_share),
        Target(case, "full", full, "times faster than the original formula", lambda row: row.faster_than_original),
    ]


TARGETS = [*_speed_targets("cub200", full=3.5), *_speed_targets("grid14", full=10.0)]
# Of one B x P x H x W float32 tensor, beyond inputs, outputs and gradients.
MEMORY_SHARE = 0.10
# Push over a folder of photographs against the bare backbone over the same images.
PUSH_RATIO = 1.10
