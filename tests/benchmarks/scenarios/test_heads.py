"""The benchmark of models' heads: ours agree with the released formulas, a run stores rows, the table shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.ops import gate
from benchmarks.ops.machine import describe
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import HeadRow
from benchmarks.pages.scenario_tables import head_table
from benchmarks.scenarios import heads
from benchmarks.scenarios.heads import CASES, PROVIDERS, TOLERANCE, HeadCase, errors
from benchmarks.scenarios.prototree_formulas import ProtoTreeCase
from benchmarks.scenarios.tesnet_formulas import TesNetCase

TINY: list[HeadCase] = [
    TesNetCase("TesNet, head", False, images=3, depth=6, side=3, classes=4, per_class=2),
    TesNetCase("TesNet, loss", True, images=3, depth=6, side=3, classes=4, per_class=2),
    ProtoTreeCase("ProtoTree, step", images=5, depth=6, side=3, levels=3, classes=4, batches=7),
]


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_ours_agrees_with_the_released_formula_in_double_precision(case: HeadCase) -> None:
    found = errors(case)
    assert set(found) == set(PROVIDERS)
    assert max(found.values()) <= TOLERANCE


def test_the_standard_sizes_are_those_asked_for() -> None:
    sizes = {name: (case.size, case.bound) for name, case in CASES.items()}
    assert sizes == {
        "TesNet, head": ("B80 D64 7x7 P2000", 5),
        "TesNet, loss": ("B80 D64 7x7 P2000", 5),
        "ProtoTree, step": ("B64 D256 7x7 P511", 20),
    }


def test_a_run_stores_a_row_for_each_provider_that_the_table_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "require_green", lambda tests: None)
    monkeypatch.setattr(heads, "CASES", {case.name: case for case in TINY})
    path = tmp_path / "heads.csv"
    given = ["--cases", "TesNet, loss; ProtoTree, step", "--seconds", "0.1", "--settle", "0", "--out", str(path)]
    assert heads.main(given) == 0
    rows = read_rows(path, HeadRow)
    assert [row.provider for row in rows] == [*PROVIDERS, *PROVIDERS]
    assert rows[1].faster_than_original == rows[3].faster_than_original == 1
    told = capsys.readouterr().out
    assert "x the original, target >= 5 x: " in told
    assert "x the original, target >= 20 x: " in told
    table = head_table([replace(rows[0], p50_ms=7.25, faster_than_original=5.5, others=0.0)])
    assert "| TesNet, loss, B3 D6 3x3 P8" in table
    assert "| **ours** | 7.25 ms | 5.5 x |" in table


def test_wrong_answers_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "errors", lambda case: {"protokern": float("nan"), "original": 0.0})
    with pytest.raises(RuntimeError, match="TesNet, head: must be within 3e-05 of the released formula; got nan"):
        heads.run_case(describe(), TINY[0], 0.1)
