"""The newest stored comparisons of one kind of device in a few lines: `python -m benchmarks summary --device cuda`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pages.groups import Comparison, newest, quickest
from benchmarks.pages.results import SPEED, read_rows
from benchmarks.pages.rows import SpeedRow
from benchmarks.pages.targets import NOT_MEASURED, verdicts

TITLES = ("ms", "in graph", "of floor", "mm", "original", "compile", "other")


def summarise(rows: Sequence[SpeedRow], device: str) -> list[str]:
    """One line for each comparison and precision of ours; times in ms, each the quickest of its kind."""
    lines = [f"{'':40}{'ours':>12}{''.join(f'{title:>10}' for title in TITLES)}"]
    for comparison in newest(rows):
        if comparison.first.on_cuda == (device == "cuda"):
            lines += comparison_lines(comparison)
    return lines


def comparison_lines(comparison: Comparison) -> list[str]:
    first = comparison.first
    threads = "" if first.on_cuda or first.threads > 1 else " 1 thread"
    lines = []
    for precision in ("fp32", "tf32", "bf16"):
        ours = comparison.ours(precision)
        if ours is None:
            continue
        graph = comparison.ours(precision, "graph")
        others = [row for row in comparison.peers() if row.provider not in ("original", "compile")]
        named = [
            comparison.find("mm", precision),
            quickest(row for row in comparison.peers() if row.provider == "original"),
            quickest(row for row in comparison.peers() if row.provider == "compile"),
            quickest(others),
        ]
        share = "" if ours.floor_share is None else f"{ours.floor_share:.0%}"
        cells = [f"{ours.p50_ms:.4g}", "" if graph is None else f"{graph.p50_ms:.4g}", share]
        cells += ["" if row is None else f"{row.p50_ms:.4g}" for row in named]
        where = f"{first.op} {first.mode} {first.case}{threads}"
        who = f"{ours.provider} {precision}"
        lines.append(f"{where:40.40}{who:>12}{''.join(f'{cell:>10}' for cell in cells)}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks summary", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rows", type=Path, default=SPEED)
    arguments = parser.parse_args(argv)
    rows = read_rows(arguments.rows, SpeedRow)
    for verdict in verdicts(rows, arguments.device):
        if not verdict.endswith(NOT_MEASURED):
            print(verdict)
    print()
    for line in summarise(rows, arguments.device):
        print(line)
    return 0
