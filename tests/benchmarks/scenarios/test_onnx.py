"""The benchmark of exported models: a run stores a row, which the table shows with its verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install '.[onnx]'")

from benchmarks.ops import gate
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import OnnxRow
from benchmarks.pages.scenario_tables import onnx_table
from benchmarks.scenarios import onnx

TINY = onnx.Case("tiny", 2, 2, 8, {}, backbone="tiny", weights="none", images=2, side=40)


def test_the_standard_sizes_are_those_asked_for() -> None:
    assert [case.size for case in onnx.CASES.values()] == [
        "efficientnet_lite0 B16 224 D512 P30",
        "efficientnet_lite0 B16 224 D128 P100",
        "efficientnet_lite0 B16 224 D128 P2000",
    ]


def test_a_run_stores_a_row_that_the_table_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "require_green", lambda tests: None)
    monkeypatch.setattr(onnx, "CASES", {TINY.name: TINY})
    path = tmp_path / "onnx.csv"
    assert onnx.main(["--cases", "tiny", "--seconds", "0.1", "--settle", "0", "--out", str(path)]) == 0
    (row,) = read_rows(path, OnnxRow)
    assert row.size == "tiny B2 40 D8 P4"
    assert row.backbone_ms > 0
    assert -1 < row.head_share < 1
    assert "of the time, target <= 15%: " in capsys.readouterr().out
    quiet = replace(row, others=0.0, load=0.0, p50_ms=229.0, backbone_ms=220.0, head_share=0.042)
    assert "| tiny, tiny B2 40 D8 P4 | topk | " in onnx_table([quiet])
    assert "| 229 ms | 220 ms | head 4.2% of the time, target <= 15%: reached |" in onnx_table([quiet])
    assert "MISSED" in onnx_table([replace(quiet, head_share=0.2)])
