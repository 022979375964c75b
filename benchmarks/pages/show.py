"""What a run prints: a block for each comparison, and what was not measured."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.ops.cases import CASES
from benchmarks.ops.providers import Missing
from benchmarks.pages.rows import Measurement, SpeedRow

TITLES = ("p20 ms", "p50 ms", "p80 ms", "rounds", "GFLOP/s", "of peak", "of floor", "x original", "x mm")


def not_quiet(row: Measurement) -> str:
    """A warning behind the title of a measurement, where other work ran."""
    return "" if row.quiet else f"   NOT QUIET: load {row.load}, {row.others} cores busy with other work"


def show_rows(rows: Sequence[SpeedRow]) -> None:
    """One comparison, the quickest first."""
    if not rows:
        print("\nnothing could be measured")
        return
    first = rows[0]
    threads = "" if first.on_cuda else f", {first.threads} threads"
    print(f"\n{first.op} {first.mode} {first.case} ({CASES[first.case].title}{threads}){not_quiet(first)}")
    print(f"{'':24}{''.join(f'{title:>11}' for title in TITLES)}")
    for row in sorted(rows, key=lambda row: (row.timer, row.p50_ms)):
        timer = "" if row.timer == "eager" else f" {row.timer}"
        cells = "".join(f"{cell:>11}" for cell in row_cells(row))
        print(f"{f'{row.provider} {row.precision}{timer}':24}{cells}")
    for precision in dict.fromkeys(row.precision for row in rows):
        row = next(row for row in rows if row.precision == precision)
        floor = "" if row.floor_ms is None else f", floor {row.floor_ms:.4f} ms ({row.floor_bound})"
        print(f"{f'peak {precision}':24}{row.peak_gflops:10.1f} GFLOP/s, {row.peak_source}{floor}")
    print(f"{'copy':24}{first.gbytes_per_s:10.1f} GB/s   {first.clocks}".rstrip())


def row_cells(row: SpeedRow) -> list[str]:
    return [
        *(f"{value:.4g}" for value in (row.p20_ms, row.p50_ms, row.p80_ms)),
        str(row.rounds),
        "" if row.gflops is None else f"{row.gflops:.1f}",
        "" if row.peak_share is None else f"{row.peak_share:.1%}",
        "" if row.floor_share is None else f"{row.floor_share:.1%}",
        *("" if value is None else f"{value:.2f}" for value in (row.faster_than_original, row.faster_than_mm)),
    ]


def show_missing(missing: Sequence[Missing], wrong: Sequence[Missing]) -> None:
    """By reason, so that each cause is reported once."""
    for title, found in (("Not measured", missing), ("WRONG OR BROKEN, not timed", wrong)):
        by_reason: dict[str, list[str]] = {}
        for one in dict.fromkeys(found):
            by_reason.setdefault(one.reason, []).append(one.what)
        if found:
            print(f"\n{title}")
        for reason, what in by_reason.items():
            print(f"  {', '.join(what)}: {reason}")
