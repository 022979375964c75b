"""The benchmark of the last layer: a run stores both ways, the table shows them and what was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.ops import gate
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import LastLayerRow
from benchmarks.pages.scenario_tables import last_layer_table
from benchmarks.scenarios import last_layer
from tests.benchmarks.rows import MACHINE

SOLVED = LastLayerRow(
    **MACHINE,
    problem="made up",
    solver="convex",
    images=5994,
    inputs=2000,
    classes=200,
    path=1,
    threads=2,
    rounds=3,
    seconds=6.0,
    gap=5e-5,
    l1=1e-4,
    evaluations=264,
    objective=0.97,
    nonzero=1300,
    test_accuracy=None,
)
STEPPED = replace(SOLVED, solver="compat", seconds=8.0, gap=None, evaluations=None, objective=14.0, nonzero=398_000)


def test_a_run_stores_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "require_green", lambda tests: None)  # they run in the suite
    path = tmp_path / "rows.csv"
    assert last_layer.main(["--tiny", "--rounds", "1", "--settle", "0", "--out", str(path)]) == 0
    solved, stepped = read_rows(path, LastLayerRow)
    assert (solved.solver, stepped.solver, solved.inputs, solved.images) == ("convex", "compat", 30, 300)
    assert solved.gap is not None
    assert solved.gap <= 1e-4
    assert solved.objective < stepped.objective
    assert solved.nonzero < stepped.nonzero
    assert "target <= 10 s: " in capsys.readouterr().out


def test_the_table_says_what_was_reached() -> None:
    table = last_layer_table([SOLVED, STEPPED])
    assert "| made up: 5,994 images, 2,000 inputs, 200 classes | solved | 6.00 | 5.0e-05 | 0.97 | 1,300 |" in table
    assert "6.0 s, target <= 10 s: reached; gap 5.0e-05, target <= 0.0001: reached; objective 0.97" in table
    late = last_layer_table([replace(SOLVED, seconds=11.0, objective=15.0), STEPPED])
    assert "11.0 s, target <= 10 s: MISSED" in late
    assert "objective 15, target <= 14 of the small steps: MISSED" in late


def test_of_trained_runs_the_table_shows_the_test_images() -> None:
    run = [replace(row, problem="clothes", path=10, test_accuracy=0.905) for row in (SOLVED, STEPPED)]
    assert "| clothes: 5,994 images, 2,000 inputs, 200 classes | solved, 10 strengths of L1 |" in last_layer_table(run)
    assert "| 90.5% |  |" in last_layer_table(run)
