"""The benchmark of the search: its loops agree with ours, a run stores rows, the table shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.ops import gate
from benchmarks.ops.machine import describe
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import SearchRow
from benchmarks.pages.scenario_tables import search_table
from benchmarks.scenarios import search
from benchmarks.scenarios.search import CASES, Outcome, tiny
from tests.benchmarks.rows import MACHINE

PUSH = SearchRow(
    **MACHINE,
    case="push",
    baseline="original",
    images=5994,
    side=7,
    depth=128,
    prototypes=2000,
    classes=200,
    k=1,
    batch_size=75,
    threads=2,
    rounds=3,
    search_s=0.2,
    baseline_images=5994,
    baseline_s=8.0,
    ratio=40.0,
    peak_mb=None,
)
PRUNE = replace(PUSH, case="prune", k=6, baseline_images=375, ratio=19.0)
STREAM = replace(
    PUSH, case="stream", baseline="op", images=50_000, search_s=60.0, baseline_s=54.0, ratio=0.9, peak_mb=1600.0
)


def test_a_run_compares_times_and_stores_a_row_for_each_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "require_green", lambda tests: None)
    # In the same process: importing torch anew takes longer than all the rest.
    monkeypatch.setattr(search, "stream_apart", lambda path, case, threads: search.stream_here(path, case))
    out = tmp_path / "rows.csv"
    arguments = ["--tiny", "--rounds", "2", "--threads", "1", "--settle", "0", "--folder", str(tmp_path)]
    assert search.main([*arguments, "--out", str(out)]) == 0
    rows = read_rows(out, SearchRow)
    assert [(row.case, row.k, row.baseline, row.rounds) for row in rows] == [
        ("push", 1, "original", 2),
        ("prune", 6, "original", 2),
        ("stream", 1, "op", 1),
    ]
    assert [row.baseline_images for row in rows] == [18, 18, 2]
    assert [row.peak_mb is None for row in rows] == [True, True, False]
    assert capsys.readouterr().out.count("target") == 5
    assert list(tmp_path.iterdir()) == [out]


def test_other_answers_of_the_original_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = search.push

    def wrong(batches, prototypes, class_of):
        return exact(batches, prototypes + 1, class_of)

    monkeypatch.setattr(search, "push", wrong)
    with pytest.raises(AssertionError, match="not close"):
        search.run_case(describe(), tiny(CASES["push"]), 1, tmp_path)


def test_the_ratio_is_the_median_over_rounds() -> None:
    assert Outcome(search=[1.0, 2.0, 1.0], baseline=[30.0, 20.0, 50.0]).ratio == 30


def test_the_table_says_what_was_compared_and_what_is_missed() -> None:
    push, prune, stream = search_table([PUSH, PRUNE, STREAM]).splitlines()[2:]
    assert push == (
        "| push: 5,994 images, 7 x 7 x 128, 2,000 prototypes, k = 1, 2 threads | 0.20 s | the released program's "
        "loops: 8.0 s | 40.0 x | 40.0 x the original, target >= 30 x: reached; 0.20 s, target <= 2 s: reached |"
    )
    assert "8.0 s (375 images, scaled) | 19.0 x | 19.0 x the original, target >= 20 x: MISSED |" in prune
    assert "54.0 s (every eighth batch, scaled) | 90% | 90% of the op's own speed, target >= 60%: reached; " in stream
    assert stream.endswith("1600 MB, target < 1500 MB: MISSED |")
