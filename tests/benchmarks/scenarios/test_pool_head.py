"""The benchmark of ProtoPool's head: its formulas agree, its run stores rows, its table shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.ops import gate
from benchmarks.ops.machine import describe
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import PoolRow
from benchmarks.pages.tables import Stored, full
from benchmarks.scenarios import pool_head
from benchmarks.scenarios.pool_head import CASES, PROVIDERS, TINY, TOLERANCE, errors
from tests.benchmarks.rows import NATIVE, POOL


@pytest.mark.parametrize("scale", [5.0, None], ids=["soft", "hard"])
@pytest.mark.parametrize("focal", ["distance", "similarity"])
def test_ours_and_both_formulas_agree_with_the_released_one_in_double_precision(focal, scale) -> None:
    found = errors(replace(TINY, focal=focal, scale=scale))
    assert set(found) == set(PROVIDERS)
    assert max(found.values()) <= TOLERANCE


def test_the_standard_size_is_the_one_asked_for() -> None:
    for case in CASES.values():
        sizes = (case.images, case.depth, case.side, case.prototypes, case.classes, case.slots)
        assert sizes == (80, 128, 7, 202, 200, 10)


def test_a_run_stores_a_row_for_each_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "require_green", lambda tests: None)
    monkeypatch.setattr(pool_head, "extra_bytes_apart", lambda name, case: 2000)
    path = tmp_path / "pool.csv"
    assert pool_head.main(["--cases", "tiny", "--seconds", "0.1", "--settle", "0", "--out", str(path)]) == 0
    rows = read_rows(path, PoolRow)
    assert [row.provider for row in rows] == list(PROVIDERS)
    assert next(row for row in rows if row.provider == "original").faster_than_original == 1
    assert {row.extra_mb for row in rows} == {0.002}
    assert "x the original, target >= 2 x: " in capsys.readouterr().out


def test_the_measuring_process_prints_a_number_of_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert pool_head.main(["--cases", "tiny", "--child", "original"]) == 0
    assert int(capsys.readouterr().out) < 1e8


def test_wrong_answers_of_ours_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_head, "errors", lambda case: {"protokern": float("nan"), "original": 0.0})
    with pytest.raises(RuntimeError, match="tiny: must be within 3e-05 of the released formula; got nan"):
        pool_head.run_case(describe(), TINY, 0.1)


def test_the_table_shows_the_newest_row_of_each_provider() -> None:
    original = replace(POOL, provider="original", p50_ms=30.0, faster_than_original=1.0, extra_mb=12.672)
    text = full(Stored([NATIVE], others={PoolRow: [replace(POOL, p50_ms=7.0), original, POOL]}))
    assert "| distance-soft | 183 | 2 | **ours** | 10 ms | 3.0 x | 1.6, 50% |" in text
    assert "| distance-soft | 183 | 2 | original | 30 ms | 1.0 x | 12.7, 400% |" in text
    assert "| 7 ms |" not in text.partition("## The head of ProtoPool")[2]
