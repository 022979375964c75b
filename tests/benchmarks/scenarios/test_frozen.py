"""The benchmark of training on stored features: its heads agree, its run stores rows, its table shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.ops import gate
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import FrozenRow
from benchmarks.pages.tables import Stored, scale
from benchmarks.scenarios import frozen
from benchmarks.scenarios.frozen import PROVIDERS, TOLERANCES, check

TINY = ["--backbone", "tiny", "--weights", "none", "--image-size", "32", "--limit", "24", "--batch-size", "8"]


def test_a_run_stores_a_row_for_each_provider_and_the_table_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "require_green", lambda tests: None)
    path = tmp_path / "frozen.csv"
    assert frozen.main([*TINY, "--seconds", "0.2", "--settle", "0", "--out", str(path)]) == 0
    rows = read_rows(path, FrozenRow)
    assert [row.provider for row in rows] == list(PROVIDERS)
    assert {(row.channels, row.side, row.prototypes, row.batch) for row in rows} == {(128, 4, 100, 8)}
    assert next(row for row in rows if row.provider == "eager").faster_than_eager == 1
    assert "x the eager head, target >= 3 x: " in capsys.readouterr().out
    shown = replace(rows[0], p50_ms=10.0, images_per_s=8000.0, faster_than_eager=3.2, faster_than_backbone=90.0)
    assert f"{shown.threads} threads" in scale(Stored(others={FrozenRow: [shown]}))
    assert "| **from the store, bf16** | 10 ms | 8,000 | 3.2 x | 90.0 x |" in scale(Stored(others={FrozenRow: [shown]}))


@pytest.mark.parametrize("name", TOLERANCES)
def test_a_head_with_another_loss_ends_the_run(name: str) -> None:
    right = dict.fromkeys(PROVIDERS, 2.0)
    check(right)
    with pytest.raises(RuntimeError, match=f"{name}: must have the loss 2 of the eager head; got nan"):
        check({**right, name: float("nan")})
