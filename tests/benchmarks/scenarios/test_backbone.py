"""The benchmark of a frozen backbone's pass compares before it times, and stores a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import BackboneRow
from benchmarks.pages.scenario_tables import backbone_table
from benchmarks.scenarios import backbone
from benchmarks.scenarios.backbone import main

TINY = ["--backbone", "tiny", "--weights", "none", "--image-size", "32", "--images", "20", "--rounds", "2"]


@pytest.fixture(autouse=True)
def green(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.ops.gate.require_green", lambda tests: None)


def test_a_row_with_both_speeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    out = tmp_path / "backbone.csv"
    assert main([*TINY, "--settle", "0", "--out", str(out)]) == 0
    (row,) = read_rows(out, BackboneRow)
    assert (row.backbone, row.images, row.onednn) == ("tiny", 20, "AVX2")
    assert row.eager_images_s > 0
    assert row.fused_images_s > 0
    assert row.error <= 1e-4
    shown = replace(row, eager_images_s=40.2, fused_images_s=90.6, ratio=2.25, threads=2)
    line = backbone_table([shown]).splitlines()[-1]
    assert line.startswith("| tiny at 32 pixels, 2 threads, AVX2")
    assert line.endswith("| 40.2 | 90.6 | 2.25x, target >= 2x: reached |")
    assert "1.90x, target >= 2x: MISSED" in backbone_table([replace(shown, ratio=1.9)])


def test_results_that_differ_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "run_fused", lambda net, images: net(images) * 1.01)
    with pytest.raises(SystemExit, match="nothing was timed"):
        main([*TINY, "--settle", "0", "--out", str(tmp_path / "backbone.csv")])
    assert not (tmp_path / "backbone.csv").exists()
