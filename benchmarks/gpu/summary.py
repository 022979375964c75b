"""The end of a run: what its rows say of the targets, and a line for each comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.plan import Records, Settings, Unit
from benchmarks.gpu.store import read_table
from benchmarks.gpu.worker import Result
from benchmarks.pages import plot, tables
from benchmarks.pages.results import read_rows
from benchmarks.pages.rows import DeviceRow, MemoryRow, SpeedRow
from benchmarks.pages.summary import summarise
from benchmarks.pages.targets import memory_verdict
from benchmarks.pages.targets import summary as target_lines

MOST_LINES = 20


def tell_units(settings: Settings, records: Records) -> list[Unit]:
    return [{"name": "rows"}, *([] if settings.rehearse else [{"name": "pages"}])]


def tell(unit: Unit, settings: Settings) -> Result:
    if unit["name"] == "pages":
        tables.main(["--write"])
        plot.main(["--write"])
        return Result(status="done")
    return Result(status="done", data={"text": "\n\n".join(parts(Path(settings.home), settings.rehearse))})


def parts(home: Path, rehearse: bool) -> list[str]:
    """Targets first, then times, memory, networks and tiles; what has no rows is left out."""
    speed = read_rows(home / "speed.csv", SpeedRow)
    device = "cpu" if rehearse else "cuda"
    found = []
    if speed:
        if not rehearse:
            found.append("\n".join(["targets", *target_lines(speed, device)]))
        found.append("\n".join(["median ms, eager, cold cache", *first_of(summarise(speed, device), "speed.csv")]))
    found += memory_part(read_rows(home / "memory.csv", MemoryRow))
    networks = read_rows(home / "device.csv", DeviceRow)
    if networks:
        found.append("\n".join(["networks", *first_of(list(map(network_line, networks)), "device.csv")]))
    tiles = read_table(home / "tiles.csv")
    if tiles:
        found.append("\n".join(["tiles", *(tile_line(row) for row in tiles)]))
    return found


def first_of(lines: Sequence[str], file: str) -> list[str]:
    """As many as leave room on a screen for the rest, and where the others are."""
    rest = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], *([f"and {rest} more in {file}"] if rest > 0 else [])]


def memory_part(rows: Sequence[MemoryRow]) -> list[str]:
    if not rows:
        return []
    original = next((row for row in rows if row.provider == "original"), None)
    lines = [
        f"{row.provider} {row.precision} {row.case}: {row.extra_mb:.1f} MB {memory_verdict(row, original)}".rstrip()
        for row in rows
    ]
    return ["\n".join(["extra memory of forward and backward", *lines])]


def network_line(row: DeviceRow) -> str:
    what = f"{row.task} {row.backbone} {row.precision} {row.backend}"
    longest = "; ".join(row.profile.split("; ")[:3])
    return f"{what}: {row.images_per_s:.0f} images/s, {row.peak_mb:.0f} MB; {longest}"


def tile_line(row: dict[str, str]) -> str:
    tiles = "x".join(row[name] for name in ("block_p", "block_n", "block_d"))
    where = f"{row['op']} {row['precision']} D{row['depth']} N{row['positions']} P{row['prototypes']}"
    rest = f"{row['warps']} warps, {row['stages']} stages, {row['waves']} waves {row['path']}".rstrip()
    return f"{where}: {tiles}, {rest}: {row['ms']} ms, before {row['ms_before']} ms"
