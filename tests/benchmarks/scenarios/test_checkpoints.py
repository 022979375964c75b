"""The benchmark of checkpoints: a run stores a row, the table shows it, a checkpoint that is not the model stops it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.pages.results import read_rows
from benchmarks.pages.scenario_rows import CheckpointRow
from benchmarks.pages.scenario_tables import checkpoint_table
from benchmarks.scenarios import checkpoints
from tests.benchmarks.rows import MACHINE

ROW = CheckpointRow(
    **MACHINE,
    backbone="efficientnet_lite0",
    images=320,
    image_size=160,
    prototypes=100,
    threads=2,
    rounds=3,
    epoch_s=20.0,
    checkpoint_s=0.2,
    checkpoint_mb=43.0,
    share=0.01,
    ratio=1.011,
)
TINY = ["--backbone", "tiny", "--image-size", "32", "--birds", "2", "--rounds", "3", "--settle", "0"]


def test_a_run_stores_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoints.main([*TINY, "--out", str(tmp_path / "rows.csv")]) == 0
    (row,) = read_rows(tmp_path / "rows.csv", CheckpointRow)
    assert (row.images, row.rounds, row.backbone) == (20, 3, "tiny")
    assert row.share == pytest.approx(row.checkpoint_s / row.epoch_s, rel=0.05)
    assert row.checkpoint_mb > 1
    assert "of an epoch, target <= 2%: " in capsys.readouterr().out


def test_a_checkpoint_that_is_not_the_model_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_another(run, name: str) -> None:
        before = run.model.prototype_layer.prototypes.detach().clone()
        with torch.no_grad():
            run.model.prototype_layer.prototypes.zero_()
        save(run, name)
        with torch.no_grad():
            run.model.prototype_layer.prototypes.copy_(before)

    save = checkpoints.TimedRun.save
    monkeypatch.setattr(checkpoints.TimedRun, "save", save_another)
    with pytest.raises(SystemExit, match="what was written is not what the model holds; nothing is stored"):
        checkpoints.main([*TINY, "--out", str(tmp_path / "rows.csv")])
    assert not (tmp_path / "rows.csv").exists()


def test_the_table_says_what_was_reached() -> None:
    table = checkpoint_table([ROW, replace(ROW, share=0.03)])
    assert "320 images, efficientnet_lite0 at 160 pixels, 100 prototypes | 20.0 s | 0.20 s (43 MB) | 1.011 |" in table
    assert "1.00% of an epoch, target <= 2%: reached" in table
    assert "3.00% of an epoch, target <= 2%: MISSED" in table
