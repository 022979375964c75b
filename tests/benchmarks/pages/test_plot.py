"""The roofline shows the stored rows, and the summary tells them in a few lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.pages import summary
from benchmarks.pages.groups import newest
from benchmarks.pages.plot import as_svg, draw, main, panels, roofs
from benchmarks.pages.results import append_rows
from tests.benchmarks.rows import MATMUL, MM, NATIVE, ON_GPU, ORIGINAL

BF16 = replace(NATIVE, precision="bf16", p50_ms=2.5, gflops=802.8)
ROWS = [NATIVE, BF16, ORIGINAL, MM, MATMUL, replace(NATIVE, case="grid14"), replace(NATIVE, mode="full", gflops=None)]


def test_a_panel_for_each_instruction_set_with_all_threads() -> None:
    rows = [*ROWS, replace(NATIVE, isa="amx"), replace(NATIVE, isa="avx2", threads=1), ON_GPU]
    found = panels(rows, on_cuda=False)
    assert {isa: [one.first.case for one in comparisons] for (_, isa), comparisons in found.items()} == {
        "amx": ["cub200"],
        "avx512": ["cub200", "grid14"],
    }
    assert [isa for _, isa in panels(rows, on_cuda=True)] == ["sm_90"]
    assert panels([replace(NATIVE, isa="avx2")], on_cuda=False) == {}


def test_the_points_of_a_plot_are_the_rows() -> None:
    figure = draw(ROWS, on_cuda=False)
    assert figure is not None
    (ax,) = figure.axes
    shown = {line.get_label(): list(line.get_ydata()) for line in ax.lines if not str(line.get_label()).startswith("_")}
    assert shown["protokern, fp32"] == [NATIVE.gflops, NATIVE.gflops]
    assert shown["protokern, bf16"] == [BF16.gflops]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["cub200 (405)", "grid14 (782)"]


def test_the_roofs_are_the_measured_rates() -> None:
    (cpu,) = newest([NATIVE, MM])
    assert roofs(cpu) == {"multiply-adds": 480.0}
    (tiles,) = newest([NATIVE, replace(MM, precision="bf16", gflops=2000.0)])
    assert roofs(tiles)["torch.mm in bf16"] == 2000.0
    (gpu,) = newest(
        [replace(ON_GPU, precision=name, peak_gflops=rate) for name, rate in (("tf32", 4e5), ("fp32", 5e4))]
    )
    assert roofs(gpu) == {"fp32 products": 5e4, "tf32 products": 4e5}


def test_the_same_rows_give_the_same_bytes() -> None:
    first, second = draw(ROWS, on_cuda=False), draw(ROWS, on_cuda=False)
    assert first is not None
    assert second is not None
    assert as_svg(first) == as_svg(second)


def test_the_command_draws_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "speed.csv"
    append_rows(rows, ROWS)
    assert main(["--write", "--rows", str(rows), "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "roofline-cpu.svg\nroofline-cuda.svg: not measured\n"
    assert (tmp_path / "roofline-cpu.svg").read_text().startswith("<?xml")
    assert not (tmp_path / "roofline-cuda.svg").exists()


def test_the_summary_has_a_line_for_each_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "speed.csv"
    append_rows(rows, [*ROWS[:5], replace(BF16, timer="graph", p50_ms=2.0)])
    assert summary.main(["--rows", str(rows)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cub200 fwd, avx512: share of the FMA peak >= 0.8: 0.836, reached"
    assert lines[-3].split() == ["ours", "ms", "in", "graph", "of", "floor", "mm", "original", "compile", "other"]
    assert lines[-2].split() == ["min_distance", "fwd", "cub200", "native", "fp32", "5", "84%", "11.7", "50", "20"]
    assert lines[-1].split() == ["min_distance", "fwd", "cub200", "native", "bf16", "2.5", "2", "167%", "50", "20"]
    assert summary.summarise(ROWS, "cuda") == [lines[-3]]
