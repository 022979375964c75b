"""The benchmark of TesNet's head: ours agrees with the released formula, its run stores rows, its table shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.ops import gate
from benchmarks.ops.machine import describe
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import TesNetRow
from benchmarks.pages.scenario_tables import tesnet_table
from benchmarks.scenarios import tesnet_head
from benchmarks.scenarios.tesnet_head import CASES, PROVIDERS, TINY, TOLERANCE, errors


@pytest.mark.parametrize("with_loss", [False, True])
def test_ours_agrees_with_the_released_formula_in_double_precision(with_loss: bool) -> None:
    found = errors(replace(TINY, with_loss=with_loss))
    assert set(found) == set(PROVIDERS)
    assert max(found.values()) <= TOLERANCE


def test_the_standard_size_is_the_one_asked_for() -> None:
    for case in CASES.values():
        assert (case.images, case.depth, case.side, case.classes * case.per_class) == (80, 64, 7, 2000)


def test_a_run_stores_a_row_for_each_provider_that_the_table_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "require_green", lambda tests: None)
    path = tmp_path / "tesnet.csv"
    assert tesnet_head.main(["--cases", "tiny", "--seconds", "0.1", "--settle", "0", "--out", str(path)]) == 0
    rows = read_rows(path, TesNetRow)
    assert [row.provider for row in rows] == list(PROVIDERS)
    assert rows[1].faster_than_original == 1
    assert "x the original, target >= 5 x: " in capsys.readouterr().out
    table = tesnet_table([replace(rows[0], p50_ms=7.25, faster_than_original=5.5, others=0.0)])
    assert "tiny, B3 D6 3x3 P8" in table
    assert "| **ours** | 7.25 ms | 5.5 x |" in table


def test_wrong_answers_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tesnet_head, "errors", lambda case: {"protokern": float("nan"), "original": 0.0})
    with pytest.raises(RuntimeError, match="tiny: must be within 3e-05 of the released formula; got nan"):
        tesnet_head.run_case(describe(), TINY, 0.1)
