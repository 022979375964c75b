from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="starlette is not installed: pip install '.[app]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install '.[app]'")

from benchmarks.pages.page_rows import AppRow
from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_tables import app_table
from benchmarks.pages.targets import app_verdict
from benchmarks.scenarios import app, report

TINY = ["--classes", "2", "--prototypes-per-class", "2", "--train-images", "6", "--test-images", "2"]


def test_a_tiny_run_gives_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "open_in_chromium", lambda address, rounds: report.Views("1.2.3", 10.0, 20.0, 5.0))
    out = tmp_path / "app.csv"
    assert (
        app.main([*TINY, "--image-size", "32", "--rounds", "1", "--edits", "1", "--settle", "0", "--out", str(out)])
        == 0
    )
    (row,) = read_rows(out, AppRow)
    assert (row.case, row.prototypes, row.classes, row.browser) == ("made up", 4, 2, "1.2.3")
    assert row.all_images > row.train_images
    assert all(one is not None and one > 0 for one in (row.page_ms, row.ask_ms, row.forbid_ms, row.undo_ms))
    said = capsys.readouterr().out
    assert "4 prototypes" in said
    assert "first view 10 ms, loaded 20 ms, target <= 2000 ms: reached" in said
    assert "| made up, 4 prototypes, " in app_table([row])


def test_what_an_edit_may_take_follows_the_number_of_prototypes(tmp_path: Path) -> None:
    row = AppRow(
        date="",
        git_sha="",
        device="",
        cores=2,
        isa="",
        torch_version="",
        protokern_version="",
        load=0.0,
        others=0.0,
        threads=2,
        case="run",
        backbone="tiny",
        image_size=64,
        prototypes=100,
        classes=10,
        train_images=3000,
        all_images=3500,
        open_s=1.0,
        prepare_s=1.0,
        rounds=3,
        page_ms=1.0,
        ask_ms=1200.0,
        forbid_ms=1900.0,
        undo_ms=2100.0,
        browser=None,
        paint_ms=None,
        load_ms=None,
    )
    assert [line.rpartition(" ")[2] for line in app_verdict(row)] == ["MISSED", "MISSED"]
    assert "target <= 10000 ms: reached" in app_verdict(replace(row, prototypes=101))[1]
    assert app_verdict(replace(row, prototypes=1001))[1] == "forbid 1900 ms, undo 2100 ms"
    assert len(app_verdict(replace(row, forbid_ms=None, undo_ms=None))) == 1
