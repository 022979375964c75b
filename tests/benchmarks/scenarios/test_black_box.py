"""The black box beside a recipe: it learns, leaves alone what is frozen, and its backbone serves a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.pages.accuracy import AccuracyRow, table
from benchmarks.pages.results import read_rows
from benchmarks.scenarios import black_box
from protokern.backbones import build_backbone

RECIPE = """
[model]
backbone = "tiny"
[data]
image_size = 32
augmentation = "none"
birds_classes = 2
birds_train = 32
birds_val = 6
birds_test = 12
[train]
batch_size = 8
warm_epochs = 1
joint_epochs = 8
add_on_lr = 0.3
backbone_lr = 0.01
frozen_layers = ["body.0"]
"""


def test_it_learns_and_stores_its_row_and_a_backbone_for_recipes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, rows, weights = tmp_path / "tiny.toml", tmp_path / "rows.csv", tmp_path / "tiny.pt"
    recipe.write_text(RECIPE, encoding="utf-8")
    assert black_box.main([str(recipe), "--weights", str(weights), "--out", str(rows)]) == 0
    (row,) = read_rows(rows, AccuracyRow)
    assert row.config == "black box"
    assert (row.train_images, row.test_images, row.prototypes, row.push, row.last_layer) == (64, 24, 0, None, None)
    assert row.joint is not None
    assert row.joint > 65  # two classes
    assert f"test {row.joint:.1f}%" in capsys.readouterr().out
    assert "| `black box` | synthetic birds | 0 |" in table([row])

    torch.manual_seed(0)
    start = build_backbone("tiny").state_dict()
    learnt = build_backbone("tiny", weights=str(weights)).state_dict()
    moved = {name for name in start if not torch.equal(start[name], learnt[name])}
    assert moved
    assert not any(name.startswith("body.0.") for name in moved)


@pytest.mark.parametrize("change", ["train.joint_epochs=0", "train.backbone='frozen'"])
def test_a_recipe_that_trains_no_backbone_is_refused_and_no_row_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    recipe, rows = tmp_path / "tiny.toml", tmp_path / "rows.csv"
    recipe.write_text(RECIPE, encoding="utf-8")
    with pytest.raises(SystemExit):
        black_box.main([str(recipe), "--set", change, "--out", str(rows)])
    assert "CONFIG: must train its backbone in joint epochs" in capsys.readouterr().err
    assert not rows.exists()
