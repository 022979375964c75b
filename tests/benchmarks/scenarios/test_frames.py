"""The benchmark of sufficient frames explains images of a run, and stores a row that says on which machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import FramesRow
from benchmarks.pages.scenario_tables import frames_table
from benchmarks.scenarios.frames import main
from tests.cli.pushed_run import make_run


def test_a_row_with_and_without_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path).folder
    out = tmp_path / "frames.csv"
    assert main([str(run), "--limit", "2", "--settle", "0", "--out", str(out)]) == 0
    (row,) = read_rows(out, FramesRow)
    assert (row.images, row.backbone) == (2, "tiny")
    assert 0 <= row.frames <= 8
    assert 0 < row.backbone_s < row.explained_s < row.framed_s <= row.slowest_s
    assert "target <= 1 s: reached" in capsys.readouterr().out
    shown = replace(row, backbone_s=0.03, explained_s=0.05, framed_s=1.25, slowest_s=1.5, area=18.2)
    assert "| 30 ms | 50 ms | 1.25 s | 1.50 s | 18 % | 1.25 s, target <= 1 s: MISSED |" in frames_table([shown])
