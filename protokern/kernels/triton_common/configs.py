"""The tiles of a kernel: a checked-in table, its nearest row, and a rule that makes tiles fit the device.

Nothing is tuned during a call: the table comes from `python -m benchmarks tune`; a row without a measurement says
"derived".
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import torch

from .limits import DeviceLimits

TABLE = Path(__file__).with_name("configs.csv")
SMALLEST_TILE = 16
# Half of a thread's 255 registers for the products of a tile; the rest holds operands, offsets and the epilogue.
ACCUMULATORS_PER_THREAD = 128
# Up to this number of prototypes a search may read the features in place, if the nearest row does: each tile of
# prototypes rounds the features again.
MOST_FOR_STRIDED = 512


@dataclass(frozen=True, slots=True)
class Config:
    """Tiles of a kernel.

    Attributes:
        block_p: prototypes per tile.
        block_n: patches per tile.
        block_d: channels per step.
        warps: warps per program.
        stages: number of steps in flight.
        waves: programs per multiprocessor below which the grid of an image is split.
        path: of min_distance, "operands" if a pass before the search writes the operands of the patches, "strided" if
            the search reads the features in place; of a backward, "gather", the only one; otherwise empty.
    """

    block_p: int
    block_n: int
    block_d: int
    warps: int
    stages: int
    waves: int
    path: str

    def cut(self, prototypes: int, positions: int) -> Config:
        """The same configuration with tiles no larger than the problem needs."""
        block_p = min(self.block_p, max(SMALLEST_TILE, 1 << (prototypes - 1).bit_length()))
        block_n = min(self.block_n, max(SMALLEST_TILE, 1 << (positions - 1).bit_length()))
        return replace(self, block_p=block_p, block_n=block_n)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: its problem, its tiles, and their origin.

    Attributes:
        op: name of the op.
        arch: the oldest compute capability for which the row is used, 90 for 9.0.
        dtype: of the inputs, or "any".
        precision: of the search.
        depth: D h w.
        positions: H' W'.
        prototypes: P.
        config: the tiles.
        source: "derived" from the sizes of registers and shared memory, or "measured on" a device.
    """

    op: str
    arch: int
    dtype: str
    precision: str
    depth: int
    positions: int
    prototypes: int
    config: Config
    source: str


COLUMNS = (
    *(field.name for field in fields(Row) if field.name not in ("config", "source")),
    *(field.name for field in fields(Config)),
    "source",
)


@cache
def rows(path: Path = TABLE) -> tuple[Row, ...]:
    """The table, in the order of the file."""
    with path.open(newline="") as file:
        return tuple(parse_line(line) for line in csv.DictReader(file))


def write_rows(table: list[Row], path: Path = TABLE) -> None:
    """Write the table, sorted by problem, so that a new measurement changes few lines."""
    key_length = COLUMNS.index("block_p")
    lines = sorted(line_of(row) for row in table)
    assert len({line[:key_length] for line in lines}) == len(lines), "two rows for one problem"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)


_forced: ContextVar[Config | None] = ContextVar("_forced", default=None)


@contextmanager
def forced(config: Config) -> Iterator[None]:
    """Make every choice `config`, for measurements and tests."""
    token = _forced.set(config)
    try:
        yield
    finally:
        _forced.reset(token)


def choose(
    op: str, arch: int, dtype: torch.dtype, precision: str, depth: int, positions: int, prototypes: int
) -> Config:
    """Tiles of the row that is nearest to the problem.

    Of the rows for the op and the precision: those of the newest architecture that is not newer than `arch`, those for
    `dtype` before those for any, and of these the one whose sizes are the fewest doublings away; the first on a tie.
    """
    return _forced.get() or row_for(op, arch, dtype, precision, depth, positions, prototypes).config


@cache
def row_for(op: str, arch: int, dtype: torch.dtype, precision: str, depth: int, positions: int, prototypes: int) -> Row:
    """The row whose tiles `choose` returns."""
    of_op = [row for row in rows() if row.op == op and row.precision == precision]
    assert of_op, (op, precision)
    served = [row.arch for row in of_op if row.arch <= arch]
    newest = max(served) if served else min(row.arch for row in of_op)
    of_arch = [row for row in of_op if row.arch == newest]
    name = str(dtype).removeprefix("torch.")
    candidates = [row for row in of_arch if row.dtype == name] or [row for row in of_arch if row.dtype == "any"]
    assert candidates, (op, precision, name)
    return min(candidates, key=lambda row: _doublings(row, depth, positions, prototypes))


def shrink(config: Config, limits: DeviceLimits, shared_bytes: Callable[[Config], int]) -> Config:
    """The largest tiles, up to those of `config`, that fit the device.

    Reduced are first the steps in flight, then the tiles, the larger side first, then the length of a step.

    Args:
        config: tiles of the table.
        limits: of the device.
        shared_bytes: from tiles to the shared memory that the kernel needs.

    Raises:
        RuntimeError: the smallest tiles do not fit.
    """
    while limits.registers < 2 * ACCUMULATORS_PER_THREAD * 32 * config.warps and config.warps > 1:
        config = replace(config, warps=config.warps // 2)
    while config.block_p * config.block_n > ACCUMULATORS_PER_THREAD * 32 * config.warps:
        config = _with_smaller_tile(config)
    while shared_bytes(config) > limits.shared_bytes:
        if config.stages > 2:
            config = replace(config, stages=config.stages - 1)
        elif max(config.block_p, config.block_n) > 2 * SMALLEST_TILE:
            config = _with_smaller_tile(config)
        elif config.block_d > SMALLEST_TILE:
            config = replace(config, block_d=config.block_d // 2)
        elif config.stages > 1:
            config = replace(config, stages=1)
        elif max(config.block_p, config.block_n) > SMALLEST_TILE:
            config = _with_smaller_tile(config)
        else:
            raise RuntimeError(
                f"triton: the smallest tiles need {shared_bytes(config)} bytes of shared memory; the device has "
                f"{limits.shared_bytes}. Use backend='native' or 'reference'."
            )
    return config


def num_splits(config: Config, limits: DeviceLimits, programs: int, positions: int) -> int:
    """The number of parts into which the grid of every image is split, so that `programs` leave no multiprocessor idle.

    A part has at least two tiles of patches; with fewer, joining the parts costs more than it saves.
    """
    wanted = math.ceil(config.waves * limits.multiprocessors / max(1, programs))
    return max(1, min(wanted, positions // (2 * config.block_n)))


def _with_smaller_tile(config: Config) -> Config:
    if config.block_p >= config.block_n:
        return replace(config, block_p=config.block_p // 2)
    return replace(config, block_n=config.block_n // 2)


def _doublings(row: Row, depth: int, positions: int, prototypes: int) -> float:
    pairs = ((row.depth, depth), (row.positions, positions), (row.prototypes, prototypes))
    return sum(abs(math.log2(of_row / max(1, wanted))) for of_row, wanted in pairs)


def parse_line(line: dict[str, str]) -> Row:
    """The row of a line of the file; other columns are ignored."""
    config = Config(
        **{field.name: int(line[field.name]) for field in fields(Config) if field.name != "path"}, path=line["path"]
    )
    sizes = {name: int(line[name]) for name in ("arch", "depth", "positions", "prototypes")}
    return Row(
        op=line["op"],
        dtype=line["dtype"],
        precision=line["precision"],
        config=config,
        source=line["source"],
        **sizes,
    )


def line_of(row: Row) -> tuple[object, ...]:
    """The cells of a row, in the order of COLUMNS."""
    config = tuple(getattr(row.config, field.name) for field in fields(Config))
    key = (row.op, row.arch, row.dtype, row.precision, row.depth, row.positions, row.prototypes)
    return (*key, *config, row.source)
