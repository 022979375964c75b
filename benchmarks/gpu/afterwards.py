"""What follows a run: rows and tiles from the folder of another machine, and the table that `auto` chooses by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.store import read_table
from benchmarks.ops.cases import CASES
from benchmarks.ops.providers import PRECISIONS
from benchmarks.pages.groups import Comparison, newest
from benchmarks.pages.results import DEVICE, MEMORY, RESULTS, SPEED, append_rows, read_rows
from benchmarks.pages.rows import DeviceRow, MemoryRow, SpeedRow
from benchmarks.tools.tune import merged
from protokern.kernels import fastest
from protokern.kernels.fastest import Measured
from protokern.kernels.triton_common import configs

# Rows of a table by the name of its file.
KINDS: dict[str, type[Any]] = {SPEED.name: SpeedRow, MEMORY.name: MemoryRow, DEVICE.name: DeviceRow}


def main(folder: Path | None, *, choose: bool) -> int:
    if folder is not None:
        if not folder.is_dir():
            raise SystemExit(f"--store: must be a folder that a run wrote; got {str(folder)!r}. Give its --out.")
        for line in (*take_rows(folder, RESULTS), take_tiles(folder, configs.TABLE)):
            print(line)
    if choose:
        table = measured_rows(read_rows(SPEED, SpeedRow))
        if table:
            fastest.write_rows(table)
        print(f"{len(table)} problems on which both CUDA backends were measured" + (", stored" if table else ""))
    print("python -m benchmarks tables --write && python -m benchmarks plot --write make the pages of it")
    return 0


def take_rows(folder: Path, results: Path) -> list[str]:
    """Add the rows that are not stored yet; a line for each table."""
    lines = []
    for name, kind in KINDS.items():
        stored: list[Any] = read_rows(results / name, kind)
        new: list[Any] = [row for row in read_rows(folder / name, kind) if row not in stored]
        append_rows(results / name, new)
        lines.append(f"{name}: {len(new)} rows added")
    return lines


def take_tiles(folder: Path, table: Path) -> str:
    """Replace tiles for the same problem by measured ones."""
    found = [configs.parse_line(line) for line in read_table(folder / "tiles.csv")]
    # A second call may have found better ones for a problem: the last count.
    last = list({(row.op, row.arch, row.dtype, row.precision, *sizes(row)): row for row in found}.values())
    if last:
        configs.rows.cache_clear()
        configs.write_rows(merged(configs.rows(table), last), table)
    return f"{table.name}: {len(last)} rows of measured tiles"


def sizes(row: configs.Row) -> tuple[int, int, int]:
    return row.depth, row.positions, row.prototypes


def measured_rows(rows: Sequence[SpeedRow]) -> list[Measured]:
    """Both CUDA backends, eager, on all problems of the newest rows; the backward is what `full` takes longer."""
    comparisons = {
        (one.first.op, one.first.case, one.first.isa, one.first.mode): one for one in newest(rows) if one.first.on_cuda
    }
    found = []
    for (op, case, isa, mode), comparison in comparisons.items():
        forward = comparisons.get((op, case, isa, "fwd"))
        for precision in PRECISIONS:
            if mode == "fwd":
                found += measured(comparison, None, precision)
            elif forward is not None and op in ("min_distance", "mean_activation"):
                found += measured(comparison, forward, precision)
    return found


def measured(comparison: Comparison, less: Comparison | None, precision: str) -> list[Measured]:
    """A row, or None if a backend was not measured or the difference is not a time."""
    times = []
    for backend in ("triton", "native"):
        row = comparison.find(backend, precision)
        other = None if less is None else less.find(backend, precision)
        if row is None or (less is not None and other is None):
            return []
        times.append(row.p50_ms - (0.0 if other is None else other.p50_ms))
    if min(times) <= 0:
        return []
    first = comparison.first
    case = CASES[first.case]
    return [
        Measured(
            op=first.op,
            direction="forward" if less is None else "backward",
            arch=int(first.isa.removeprefix("sm_")),
            precision=precision,
            depth=case.depth,
            positions=case.height * case.width,
            prototypes=case.prototypes,
            triton_ms=round(times[0], 5),
            native_ms=round(times[1], 5),
            source=f"{first.device}, {first.git_sha}",
        )
    ]
