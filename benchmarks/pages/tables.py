"""Markdown tables from the stored rows: `python -m benchmarks tables` prints them, `--write` fills the pages.

README gets the short one, docs/benchmarks.md those of the ops, docs/results.md those of whole data sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.commit import ROOT
from benchmarks.ops.cases import CASES
from benchmarks.pages.groups import LINES, OURS, Comparison, newest
from benchmarks.pages.results import MEMORY, SPEED, Place, read_rows
from benchmarks.pages.rows import Measurement, MemoryRow, SpeedRow
from benchmarks.pages.scenario_rows import PushRow
from benchmarks.pages.scenario_tables import BUSY_MARK, ON_BENCHMARKS, ON_RESULTS, Part, times
from benchmarks.pages.targets import verdicts

README = ROOT / "README.md"
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS_PAGE = ROOT / "docs" / "results.md"
PLACE = Place("benchmarks", "tables")
NOTHING = "No measurements are stored yet; `make bench` makes them."
NO_CUDA = "On a CUDA device: not measured."
MODE_NAMES = {"fwd": "forward", "full": "forward + backward"}
# What README shows of each kind of device: op, case, mode.
CPU_STORY = (("cub200", "fwd"), ("cub200", "full"), ("grid14", "fwd"), ("grid14", "full"), ("pool202-b16", "fwd"))
CUDA_STORY = (("cub200", "full"), ("resnet14", "full"), ("imagenet14", "full"), ("vit16", "fwd"))


Kind = TypeVar("Kind", bound=Measurement)


@dataclass(frozen=True)
class Stored:
    """All stored rows: of the ops, and of all that is made of them by the kind of row."""

    speed: Sequence[SpeedRow] = ()
    memory: Sequence[MemoryRow] = ()
    others: Mapping[type, Sequence[Any]] = field(default_factory=dict)

    def of(self, kind: type[Kind]) -> Sequence[Kind]:
        return self.others.get(kind, ())


def from_results() -> Stored:
    others = {part.row: read_rows(part.path, part.row) for part in (*ON_BENCHMARKS, *ON_RESULTS)}
    return Stored(read_rows(SPEED, SpeedRow), read_rows(MEMORY, MemoryRow), others)


def short(stored: Stored) -> str:
    """The few lines of README: the op forward and backward against what a user would otherwise run."""
    shown = [
        comparison
        for story, on_cuda in ((CPU_STORY, False), (CUDA_STORY, True))
        for comparison in pick(stored.speed, story, on_cuda)
    ]
    if not shown:
        return NOTHING
    sets = {comparison.first.isa for comparison in shown if not comparison.first.on_cuda}
    lines = [
        "| `min_distance` | original formula | quickest other | `torch.mm` alone | protokern | against the original |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    used: list[Measurement] = []
    for comparison in shown:
        lines.append(story_line(comparison, names_set=len(sets) > 1))
        used += comparison.rows
    parts = ["\n".join(lines), memory_sentence(stored.memory), push_sentence(stored.of(PushRow))]
    if not any(comparison.first.on_cuda for comparison in shown):
        parts.append(NO_CUDA)
    facts = "\n".join(f"- {part}" for part in (*parts[1:], caption(used)) if part)
    return f"{parts[0]}\n\n{facts}"


def pick(rows: Sequence[SpeedRow], story: Sequence[tuple[str, str]], on_cuda: bool) -> list[Comparison]:
    """The newest comparison of each part of a story on each instruction set, with the most threads."""
    chosen: list[Comparison] = []
    for case, mode in story:
        fitting = [
            comparison
            for comparison in newest(rows)
            if (comparison.first.op, comparison.first.case, comparison.first.mode) == ("min_distance", case, mode)
            and comparison.first.on_cuda == on_cuda
            and comparison.peers()
            and comparison.ours() is not None
        ]
        for isa in dict.fromkeys(comparison.first.isa for comparison in fitting):
            of_set = [comparison for comparison in fitting if comparison.first.isa == isa]
            chosen.append(max(of_set, key=lambda one: (one.first.threads, one.first.date)))
    return chosen


def story_line(comparison: Comparison, *, names_set: bool = False) -> str:
    first = comparison.first
    on_set = f", {first.isa}" if names_set and not first.on_cuda else ""
    precision = "tf32" if first.on_cuda else "fp32"
    ours, original = comparison.ours(precision), comparison.find("original", precision)
    others = [row for row in comparison.peers() if row.provider != "original"]
    best = min(others, key=lambda row: row.p50_ms, default=None)
    cells = [
        f"{MODE_NAMES[first.mode]}, {CASES[first.case].title}{on_set}{'' if first.quiet else BUSY_MARK}",
        milliseconds(original),
        "" if best is None else f"{milliseconds(best)} ({provider_name(best)})",
        milliseconds(comparison.find("mm", precision)),
        f"**{milliseconds(ours)}**",
        "" if ours is None else times(ours.faster_than_original),
    ]
    return f"| {' | '.join(cells)} |"


def milliseconds(row: SpeedRow | None) -> str:
    if row is None:
        return ""
    return f"{row.p50_ms:.1f} ms" if row.p50_ms >= 9.95 else f"{row.p50_ms:.3g} ms"


def provider_name(row: SpeedRow) -> str:
    """How a provider is called in tables; the precision only where it is not float32."""
    name = "`torch.compile`" if row.provider == "compile" else row.provider
    return name if row.precision == "fp32" else f"{name}, {row.precision}"


def memory_sentence(rows: Sequence[MemoryRow]) -> str:
    """What the newest rows of one case say about ours and the original."""
    sentences = []
    for on_cuda in (False, True):
        kind = [row for row in rows if row.isa.startswith("sm_") == on_cuda]
        newest_of = {row.provider: row for row in kind}
        ours, original = newest_of.get("triton") or newest_of.get("native"), newest_of.get("original")
        if ours is None or original is None or ours.case != original.case:
            continue
        sentences.append(
            f"Extra memory of forward and backward at {CASES[ours.case].shape}: {ours.extra_mb:.1f} MB, "
            f"the original's {original.extra_mb:.0f} MB."
        )
    return " ".join(sentences)


def push_sentence(rows: Sequence[PushRow]) -> str:
    if not rows:
        return ""
    row = rows[-1]
    return (
        f"A push over {row.images} images took {row.ratio:.2f} times as long as the bare {row.backbone} "
        f"({row.image_size} pixels, {row.prototypes} prototypes)."
    )


def caption(rows: Iterable[Measurement]) -> str:
    """Where, with what and when; one sentence for each machine and day."""
    places: dict[str, None] = {}
    busy = False
    for row in rows:
        busy = busy or not row.quiet
        versions = f"torch {row.torch_version}, commit {row.git_sha}, {row.date[:10]}"
        places[f"{row.device}, {row.cores} {cores_name(row)}, {row.isa}, {versions}."] = None
    text = "Medians, all measured in one run, interleaved. " + " ".join(places)
    return f"{text} \\* other work was running on the machine." if busy else text


def cores_name(row: Measurement) -> str:
    return "multiprocessors" if row.isa.startswith("sm_") else "cores"


def full(stored: Stored) -> str:
    """Every newest comparison with all its providers, memory, heads, reports and targets."""
    comparisons = newest(stored.speed)
    if not comparisons:
        return NOTHING
    parts = ["## Targets", target_table(stored.speed), "## Cases", case_table(comparisons)]
    for on_cuda, title in ((False, "## Times on the CPU"), (True, "## Times on a CUDA device")):
        kind = [comparison for comparison in comparisons if comparison.first.on_cuda == on_cuda]
        parts += [title, caption([row for comparison in kind for row in comparison.rows]) if kind else NO_CUDA]
        for comparison in kind:
            parts += [heading(comparison), comparison_table(comparison)]
    if stored.memory:
        rows = list({(row.device, row.case, row.provider, row.precision): row for row in stored.memory}.values())
        parts += ["## Memory", memory_table(rows), caption(rows)]
    return "\n\n".join([*parts, *sections(stored, ON_BENCHMARKS, "##")])


def scale(stored: Stored) -> str:
    """Searches, stored features, the last layer and checkpoints: what whole data sets cost."""
    return "\n\n".join(sections(stored, ON_RESULTS, "###")) or NOTHING


def sections(stored: Stored, parts: Sequence[Part], level: str) -> list[str]:
    """The newest row of everything that was measured, scenario by scenario."""
    found: list[str] = []
    for part in parts:
        rows = list({tuple(getattr(row, name) for name in part.key): row for row in stored.of(part.row)}.values())
        if rows:
            found += [f"{level} {part.title}", part.table(rows), caption(rows)]
    return found


def target_table(rows: Sequence[SpeedRow]) -> str:
    lines = ["| where | target | measured |", "| --- | --- | --- |"]
    for verdict in verdicts(rows):
        where, wanted, measured = verdict.split(": ")
        lines.append(f"| {where} | {wanted} | {measured} |")
    return "\n".join(lines)


def case_table(comparisons: Sequence[Comparison]) -> str:
    """The work and the least traffic of what was measured."""
    lines = [
        "| case | shape | 10^9 operations | MB that must move | operations a byte | MB of one B x P x H x W tensor |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(comparison.first.case for comparison in comparisons):
        case = CASES[name]
        work, traffic = case.forward_gflop, case.forward_bytes / 1e6
        cells = [name, case.title, f"{work:.2f}", f"{traffic:.1f}", f"{work / traffic * 1e3:.0f}"]
        lines.append(f"| {' | '.join(cells)} | {case.map_bytes / 1e6:.0f} |")
    return "\n".join(lines)


def heading(comparison: Comparison) -> str:
    first = comparison.first
    threads = "" if first.on_cuda else f", {first.threads} thread{'s' if first.threads > 1 else ''}"
    mark = "" if first.quiet else BUSY_MARK
    what = f"**`{first.op}`, {MODE_NAMES[first.mode]}, {first.case}**"
    return f"{what} ({CASES[first.case].title}), {first.isa}{threads}{mark}"


def comparison_table(comparison: Comparison) -> str:
    """All providers, the quickest first; rates and shares where they mean something."""
    forward = comparison.first.mode == "fwd"
    titles = ["", "20 %", "median", "80 %", "against the original"]
    titles += ["GFLOP/s", "of peak", "of floor"] if forward else []
    lines = [f"| {' | '.join(titles)} |", f"| --- |{' ---: |' * (len(titles) - 1)}"]
    for row in sorted(comparison.rows, key=lambda row: (row.timer, row.p50_ms)):
        name = f"**{provider_name(row)}**" if row.provider in OURS else provider_name(row)
        name += " (no distance)" if row.provider in LINES else ""
        cells = [name + (", in a graph" if row.timer == "graph" else "")]
        cells += [f"{value:.4g} ms" for value in (row.p20_ms, row.p50_ms, row.p80_ms)]
        cells.append(times(row.faster_than_original))
        if forward:
            cells += ["" if row.gflops is None else f"{row.gflops:.0f}", share(row.peak_share), share(row.floor_share)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def memory_table(rows: Sequence[MemoryRow]) -> str:
    lines = ["| extra memory, forward + backward | MB | of one B x P x H x W tensor |", "| --- | ---: | ---: |"]
    for row in rows:
        mark = "" if row.quiet else BUSY_MARK
        name = f"**{row.provider}**" if row.provider in OURS else row.provider
        name += "" if row.precision == "fp32" else f", {row.precision}"
        lines.append(f"| {name}, {CASES[row.case].title}{mark} | {row.extra_mb:.1f} | {row.share:.1%} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks tables", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md and two pages of docs")
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--results-page", type=Path, default=RESULTS_PAGE)
    arguments = parser.parse_args(argv)
    stored = from_results()
    print(short(stored))
    if arguments.write:
        pages = {arguments.readme: short, arguments.page: full, arguments.results_page: scale}
        for path, make_tables in pages.items():
            PLACE.write(path, make_tables(stored))
    return 0
