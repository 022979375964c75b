"""Markdown tables from the stored rows: `python -m benchmarks.table` prints them, `--write` fills README.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.machine import ROOT
from benchmarks.memory import MEMORY
from benchmarks.push import PUSH
from benchmarks.results import read_rows
from benchmarks.rows import Measurement, MemoryRow, PushRow, SpeedRow
from benchmarks.run import SPEED

README = ROOT / "README.md"
BEGIN = "<!-- benchmarks begin: made by `python -m benchmarks.table --write`, do not edit -->"
END = "<!-- benchmarks end -->"
NOTHING = "No measurements are stored yet; `make bench` makes them."
MODE_NAMES = {"fwd": "forward", "full": "forward + backward"}
BUSY_MARK = " \\*"


def latest(rows: Sequence[SpeedRow], op: str) -> list[list[SpeedRow]]:
    """For every case, mode and instruction set of an op, the rows of its newest run, in the order of cases.py."""
    groups: dict[tuple[str, str, str], list[SpeedRow]] = {}
    for row in rows:
        if row.op != op:
            continue
        group = groups.setdefault((row.case, row.mode, row.isa), [])
        if group and (group[0].date, group[0].git_sha) != (row.date, row.git_sha):
            group.clear()
        group.append(row)
    isas = list(dict.fromkeys(isa for _, _, isa in groups))
    order = [(case, mode, isa) for case in CASES for mode in MODE_NAMES for isa in isas]
    return [groups[key] for key in order if key in groups]


def speed_table(rows: Sequence[SpeedRow], op: str = "min_distance") -> str:
    lines = [
        "| | original formula | `torch.mm` alone | protokern | against the original | against `mm` | of FMA peak |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    groups = latest(rows, op)
    has_several_sets = len({group[0].isa for group in groups}) > 1
    for group in groups:
        by_name = {row.provider: row for row in group}
        ours = by_name.get("native")
        if ours is None:
            continue
        isa = f", {ours.isa}" if has_several_sets else ""
        cells = [
            f"{MODE_NAMES[ours.mode]}, {case_text(ours.case)}{isa}{'' if ours.quiet else BUSY_MARK}",
            *(f"{by_name[name].p50_ms:.1f} ms" if name in by_name else "" for name in ("original", "mm")),
            f"{ours.p50_ms:.2f} ms",
            times(ours.faster_than_original),
            times(ours.faster_than_mm),
            "" if ours.peak_share is None else f"{ours.peak_share:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def case_text(name: str) -> str:
    case = CASES[name]
    return case.shape if case.layout == "contiguous" else f"{case.shape}, {case.layout}"


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f} x"


def memory_table(rows: Sequence[MemoryRow]) -> str:
    newest = {(row.case, row.provider): row for row in rows}
    lines = ["| extra memory, forward + backward | MB | of one B x P x H x W tensor |", "| --- | ---: | ---: |"]
    for (case, provider), row in newest.items():
        mark = "" if row.quiet else BUSY_MARK
        name = "protokern" if provider == "native" else provider
        lines.append(f"| {name}, {case_text(case)}{mark} | {row.extra_mb:.1f} | {row.share:.1%} |")
    return "\n".join(lines)


def push_table(rows: Sequence[PushRow]) -> str:
    newest = {(row.backbone, row.images, row.image_size): row for row in rows}
    lines = ["| push | bare backbone | push | ratio |", "| --- | ---: | ---: | ---: |"]
    for row in newest.values():
        what = f"{row.images} images, {row.backbone} at {row.image_size} pixels, {row.prototypes} prototypes"
        mark = "" if row.quiet else BUSY_MARK
        lines.append(f"| {what}{mark} | {row.backbone_s:.1f} s | {row.push_s:.1f} s | {row.ratio:.3f} |")
    return "\n".join(lines)


def caption(rows: Iterable[Measurement]) -> str:
    """Where, with what and when; one sentence for each machine and day."""
    places: dict[str, None] = {}
    busy = False
    for row in rows:
        busy = busy or not row.quiet
        versions = f"torch {row.torch_version}, commit {row.git_sha}, {row.date[:10]}"
        places[f"{row.device}, {row.cores} cores, {row.isa}, {versions}."] = None
    lines = ["Medians, all measured in one run, interleaved. " + " ".join(places)]
    if busy:
        lines.append("\\* other work was running on the machine.")
    return "\n".join(lines)


def generate(speed: Sequence[SpeedRow], memory: Sequence[MemoryRow], push: Sequence[PushRow]) -> str:
    """All tables for README.md with their caption."""
    parts: list[str] = []
    used: list[Measurement] = []
    if speed:
        parts.append(speed_table(speed))
        used += [row for group in latest(speed, "min_distance") for row in group]
    if memory:
        parts.append(memory_table(memory))
        used += list({(row.case, row.provider): row for row in memory}.values())
    if push:
        parts.append(push_table(push))
        used += list({(row.backbone, row.images, row.image_size): row for row in push}.values())
    return "\n\n".join([*parts, caption(used)]) if parts else NOTHING


def from_results() -> str:
    return generate(read_rows(SPEED, SpeedRow), read_rows(MEMORY, MemoryRow), read_rows(PUSH, PushRow))


def insert(text: str, tables: str) -> str:
    """`text` with what stands between the two markers replaced.

    Raises:
        ValueError: a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"README: must have the lines {BEGIN!r} and {END!r}; got a text without them.")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    parser.add_argument("--readme", type=Path, default=README)
    arguments = parser.parse_args(argv)
    tables = from_results()
    print(tables)
    if arguments.write:
        readme = arguments.readme.read_text(encoding="utf-8")
        arguments.readme.write_text(insert(readme, tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
