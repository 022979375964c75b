"""The benchmark of importance runs, on a few painted birds, and stores a row that says on which machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import ImportanceRow
from benchmarks.pages.scenario_tables import importance_table
from benchmarks.scenarios.importance import main, ratio


def test_a_row_with_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--backbone", "tiny", "--weights", "none", "--image-size", "32", "--prototypes-per-class", "1"]
    out = tmp_path / "rows.csv"
    assert main([*few, "--limit", "6", "--batch-size", "4", "--rounds", "2", "--settle", "0", "--out", str(out)]) == 0
    (row,) = read_rows(out, ImportanceRow)
    assert (row.images, row.prototypes, row.modifications, row.rounds) == (6, 10, 6, 2)
    assert min(row.backbone_s, row.modifications_s, row.importance_s) > 0
    assert "7 bare passes" in capsys.readouterr().out
    shown = replace(row, backbone_s=30.0, modifications_s=9.0, importance_s=40.0, ratio=1.03)
    assert "| 30.0 s (7 passes) | 9.0 s | 40.0 s | 1.030 |" in importance_table([shown])


def test_the_ratio_is_the_median_of_the_whole_over_its_parts() -> None:
    taken = {"backbone": [7.0, 1.0, 2.0], "modifications": [3.0, 1.0, 2.0], "importance": [11.0, 9.0, 2.0]}
    assert ratio(taken) == pytest.approx(1.1)
