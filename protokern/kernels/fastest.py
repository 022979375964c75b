"""Which of the two backends for CUDA devices is quicker, by a checked-in table of measurements that `auto` uses.

The table is empty until both were measured on a device; `python -m benchmarks gpu --choose` writes it from stored rows.
Like the tiles, the choice depends on the model and not on the number of images, so an image has the same result in any
batch.
"""

from __future__ import annotations

import csv
import math
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("fastest.csv")


@dataclass(frozen=True, slots=True)
class Measured:
    """A line of the table: both backends on one problem, in milliseconds.

    Attributes:
        op: name of the op; "min_distance" for the gradient that several ops share.
        direction: "forward" or "backward".
        arch: compute capability of the device, 90 for 9.0.
        precision: of the search.
        depth: D h w.
        positions: H' W'.
        prototypes: P.
        source: device and commit.
    """

    op: str
    direction: str
    arch: int
    precision: str
    depth: int
    positions: int
    prototypes: int
    triton_ms: float
    native_ms: float
    source: str

    @property
    def quicker(self) -> str:
        return "native" if self.native_ms < self.triton_ms else "triton"


COLUMNS = tuple(field.name for field in fields(Measured))


@cache
def rows(path: Path = TABLE) -> tuple[Measured, ...]:
    """The table, in the order of the file."""
    kinds = {"int": int, "float": float, "str": str}
    with path.open(newline="") as file:
        return tuple(
            Measured(**{field.name: kinds[str(field.type)](line[field.name]) for field in fields(Measured)})
            for line in csv.DictReader(file)
        )


def write_rows(table: list[Measured], path: Path = TABLE) -> None:
    """Write the table, sorted by problem."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(astuple(row) for row in table))


@cache
def quicker(
    op: str, direction: str, arch: int, precision: str, depth: int, positions: int, prototypes: int
) -> str | None:
    """The quicker backend of the row whose sizes are the fewest doublings away; the first row on a tie.

    None if nothing was measured for the op, the direction and the precision on this architecture.
    """
    wanted = (op, direction, arch, precision)
    fitting = [row for row in rows() if (row.op, row.direction, row.arch, row.precision) == wanted]
    if not fitting:
        return None

    def doublings(row: Measured) -> float:
        pairs = ((row.depth, depth), (row.positions, positions), (row.prototypes, prototypes))
        return sum(abs(math.log2(measured / max(1, asked))) for measured, asked in pairs)

    return min(fitting, key=doublings).quicker
