"""Rooflines from the stored rows: `python -m benchmarks plot --write` draws docs/images/roofline-cpu.svg and -cuda.svg.

Across: the cases, by the operations of an exact search for each byte that must move. Up: those operations over the time
that was taken. The roof over each case is the lower of the peak rate and of what the bandwidth lets through.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.commit import ROOT
from benchmarks.ops.cases import CASES
from benchmarks.pages.groups import Comparison, newest, quickest
from benchmarks.pages.results import SPEED, read_rows
from benchmarks.pages.rows import SpeedRow
from benchmarks.pages.targets import NOT_HELD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES = ROOT / "docs" / "images"
INK, FAINT = "#222222", "#8a8a8a"


@dataclass(frozen=True)
class Series:
    """One kind of point."""

    label: str
    pick: Callable[[Comparison], SpeedRow | None]
    marker: str
    color: str
    filled: bool = True


def _quickest_peer(comparison: Comparison) -> SpeedRow | None:
    return quickest(row for row in comparison.peers() if row.provider != "original")


def _original(comparison: Comparison) -> SpeedRow | None:
    return quickest(row for row in comparison.peers() if row.provider == "original")


def _bare_product(comparison: Comparison) -> SpeedRow | None:
    return comparison.find("mm", "tf32" if comparison.first.on_cuda else "fp32")


SERIES = (
    Series("protokern, bf16", lambda one: one.ours("bf16"), "D", "#0b8f6a"),
    Series("protokern, tf32", lambda one: one.ours("tf32"), "^", "#3f7fd0"),
    Series("protokern, fp32", lambda one: one.ours("fp32"), "o", "#1a4f96"),
    Series("torch.mm alone: no distance", _bare_product, "s", FAINT, filled=False),
    Series("quickest other", _quickest_peer, "v", "#d9822b"),
    Series("original formula", _original, "X", "#b3403a"),
)


def panels(rows: Sequence[SpeedRow], on_cuda: bool) -> dict[tuple[str, str], list[Comparison]]:
    """The forward comparisons of `min_distance` with all threads, by device and instruction set.

    Sets that no target is for are in the tables alone: a third panel would leave none large enough to read.
    """
    found: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in newest(rows):
        first = comparison.first
        if (first.op, first.mode, first.on_cuda) != ("min_distance", "fwd", on_cuda) or comparison.ours() is None:
            continue
        if first.isa in NOT_HELD:
            continue
        if on_cuda or first.threads == first.cores:
            found.setdefault((first.device, first.isa), []).append(comparison)
    return found


def intensity(comparison: Comparison) -> float:
    case = CASES[comparison.first.case]
    return case.forward_gflop * 1e9 / case.forward_bytes


def draw(rows: Sequence[SpeedRow], *, on_cuda: bool) -> Figure | None:
    """One panel for each device and instruction set; None where nothing was measured."""
    from matplotlib.figure import Figure

    found = panels(rows, on_cuda)
    if not found:
        return None
    most = max(len(comparisons) for comparisons in found.values())
    figure = Figure(figsize=(max(8.0, 1.4 + (0.55 * most + 1) * len(found)), 5.6), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    axes[0].set_yscale("log")
    for ax, ((device, isa), comparisons) in zip(axes, found.items(), strict=True):
        draw_panel(ax, sorted(comparisons, key=intensity))
        ax.set_title(f"{device}\n{isa}, {place(comparisons[0].first)}", fontsize=10, color=INK, loc="left")
    axes[0].set_ylabel("GFLOP/s of an exact search", color=INK)
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def place(row: SpeedRow) -> str:
    return f"{row.cores} multiprocessors" if row.on_cuda else f"{row.threads} threads"


def draw_panel(ax: Axes, ordered: Sequence[Comparison]) -> None:
    """Roofs as lines, every provider of a case above the case's name."""
    for index, comparison in enumerate(ordered):
        draw_roofs(ax, index, comparison, last=index == len(ordered) - 1)
    for series in SERIES:
        points = [(index, row.gflops) for index, one in enumerate(ordered) if (row := series.pick(one)) is not None]
        shown = [(x, y) for x, y in points if y is not None]
        if shown:
            ax.plot(
                [x for x, _ in shown],
                [y for _, y in shown],
                linestyle="none",
                marker=series.marker,
                markersize=8,
                color=series.color,
                markerfacecolor=series.color if series.filled else "white",
                markeredgewidth=0.6 if series.filled else 1.4,
                markeredgecolor="white" if series.filled else series.color,
                label=series.label,
                zorder=3,
            )
    names = [f"{one.first.case} ({intensity(one):.0f})" for one in ordered]
    ax.set_xticks(range(len(ordered)), names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.6, len(ordered) - 0.4)
    ax.set_xlabel("case (operations for each byte that must move)", color=INK)
    ax.grid(True, which="major", color="#e9e9e9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", colors=INK, labelsize=8.5)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def draw_roofs(ax: Axes, index: int, comparison: Comparison, *, last: bool) -> None:
    """The roofs of one case, each cut off where the measured bandwidth lets no more through."""
    bandwidth = max((row.gbytes_per_s or 0.0) for row in comparison.rows)
    limit = bandwidth * intensity(comparison) if bandwidth else float("inf")
    for number, (label, rate) in enumerate(roofs(comparison).items()):
        roof = min(rate, limit)
        style = ("-", "--", ":")[number % 3]
        ax.plot([index - 0.5, index + 0.5], [roof, roof], color=INK, linewidth=1.3, linestyle=style, zorder=2)
        if last:
            ax.annotate(
                label, (index + 0.5, roof), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=8, color=INK
            )


def roofs(comparison: Comparison) -> dict[str, float]:
    """Measured peak rates by name. Matrix tiles of a processor have no probe; `torch.mm` in bfloat16 stands in."""
    rows = comparison.rows
    if comparison.first.on_cuda:
        peaks = {row.precision: row.peak_gflops for row in rows}
        return {f"{name} products": peaks[name] for name in ("fp32", "tf32", "bf16") if name in peaks}
    peaks = {"multiply-adds": comparison.first.peak_gflops}
    tiles = comparison.find("mm", "bf16")
    if tiles is not None and tiles.gflops is not None and tiles.gflops > comparison.first.peak_gflops:
        peaks["torch.mm in bf16"] = tiles.gflops
    return peaks


def as_svg(figure: Figure) -> str:
    """The same bytes for the same rows and the same matplotlib."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "protokern"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the plots into docs/images; else only say which")
    parser.add_argument("--rows", type=Path, default=SPEED)
    parser.add_argument("--folder", type=Path, default=IMAGES)
    arguments = parser.parse_args(argv)
    rows = read_rows(arguments.rows, SpeedRow)
    for kind in ("cpu", "cuda"):
        figure = draw(rows, on_cuda=kind == "cuda")
        path = arguments.folder / f"roofline-{kind}.svg"
        if figure is None:
            print(f"{path.name}: not measured")
            continue
        print(path.name)
        if arguments.write:
            path.write_text(as_svg(figure), encoding="utf-8")
    return 0
