from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pages.page_rows import ReportRow
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_tables import report_table
from benchmarks.scenarios import report

TINY = ["--classes", "2", "--prototypes-per-class", "2", "--train-images", "4", "--test-images", "2"]


def test_a_tiny_run_gives_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "open_in_chromium", lambda page, rounds: report.Views("1.2.3", 10.0, 20.0, 5.0))
    out = tmp_path / "report.csv"
    command = [*TINY, "--image-size", "32", "--settle", "0", "--out", str(out)]
    assert report.main([*command, "--keep", str(tmp_path / "kept")]) == 0
    (row,) = read_rows(out, ReportRow)
    assert (row.prototypes, row.classes, row.test_images, row.pictures) == (4, 2, 4, 0)
    assert 0 < row.page_s < row.build_s
    page = tmp_path / "kept" / "run" / "report" / "index.html"
    assert row.page_mb == pytest.approx(page.stat().st_size / 1e6, abs=1e-3)
    assert '"near":' in page.read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert "4 prototypes" in said
    assert "loaded 20 ms, target <= 2000 ms: reached" in said
    assert "| 10 ms | 20 ms | 5 ms |" in report_table([row])
