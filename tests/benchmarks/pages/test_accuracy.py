"""Rows of accuracies come from run folders, and docs/results.md is what the rows generate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.pages import accuracy, trust
from benchmarks.pages.accuracy import CONFIGS, PAGE, PLACE, AccuracyRow, from_results, read_run, table
from protokern.config import config_to_toml, load_config


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = load_config(CONFIGS / "clothing10.toml", ["train.seed=7", "data.path='/photos/clothing10'"])
    (tmp_path / "run.toml").write_text(config_to_toml(config, {"git": "abc", "torch": "2.15.0"}), encoding="utf-8")
    accuracies = {"joint": 0.9, "push": 0.88, "last_layer": 0.891, "prune": 0.89, "pruned_last_layer": 0.895}
    metrics = {
        "stages": {f"after_{name}": {"test": test, "val": 0.87} for name, test in accuracies.items()},
        "images": {"train": 3068, "val": 341, "test": 372},
        "seconds": {"warm": 60.0, "joint": 240.0},
        "prototypes": 98,
        "seed": 7,
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return tmp_path


def test_a_run_gives_its_row(run: Path) -> None:
    row = read_run(run)
    assert (row.config, row.data, row.seed, row.image_size) == ("clothing10", "clothing10", 7, "224")
    assert (row.joint, row.push, row.pruned_last_layer, row.val) == (90.0, 88.0, 89.5, 87.0)
    assert (row.prototypes, row.minutes, row.git_sha, row.train_images) == (98, 5.0, "abc", 3068)


def test_a_run_that_hardens_and_does_not_prune_gives_its_row(run: Path) -> None:
    path = run / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    accuracies = {"hardening": 0.89, "push": 0.88, "last_layer": 0.891}
    metrics["stages"] = {f"after_{name}": {"test": test, "val": 0.86} for name, test in accuracies.items()}
    path.write_text(json.dumps(metrics), encoding="utf-8")
    row = read_run(run)
    assert (row.joint, row.hardening, row.push, row.last_layer) == (None, 89.0, 88.0, 89.1)
    assert (row.prune, row.pruned_last_layer, row.val) == (None, None, 86.0)
    text = table([row, replace(row, seed=8)])
    assert "| `clothing10` | clothing10 | 7 |  | 89.0 | 88.0 |  | 89.1 |  |  | 98 | 5 | abc |" in text
    assert "| **mean** | clothing10 | 2 seeds |  | **89.0** | **88.0** |  | **89.1** |  |  | | | |" in text


def test_a_run_without_a_push_gives_its_row(run: Path) -> None:
    path = run / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    metrics["stages"] = {"after_exemplars": {"test": 0.9, "val": 0.86}, "after_prune": {"test": 0.89, "val": 0.85}}
    path.write_text(json.dumps(metrics), encoding="utf-8")
    row = read_run(run)
    assert (row.joint, row.push, row.last_layer, row.prune, row.val) == (90.0, None, None, 89.0, 85.0)


def test_a_run_with_live_prototypes_gives_what_they_reached(run: Path) -> None:
    path = run / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    metrics["stages"]["after_live"] = {"test": 0.905, "val": 0.86}
    path.write_text(json.dumps(metrics), encoding="utf-8")
    row = read_run(run)
    assert (row.push, row.live, row.last_layer) == (88.0, 90.5, 89.1)
    assert "| 7 | 90.0 |  | 88.0 | 90.5 | 89.1 |" in table([row])


def test_a_run_whose_prototypes_live_from_the_start_gives_its_row(run: Path) -> None:
    path = run / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    accuracies = {"start": 0.5, "live": 0.87, "last_layer": 0.88}
    metrics["stages"] = {f"after_{name}": {"test": test, "val": 0.86} for name, test in accuracies.items()}
    path.write_text(json.dumps(metrics), encoding="utf-8")
    row = read_run(run)
    assert (row.joint, row.push, row.live, row.last_layer) == (None, None, 87.0, 88.0)


def test_one_recipe_on_two_data_sets_has_a_mean_for_each(run: Path) -> None:
    row = read_run(run)
    text = table([row, replace(row, seed=8), replace(row, data="birds"), replace(row, data="birds", seed=8)])
    assert "| **mean** | clothing10 | 2 seeds |" in text
    assert "| **mean** | birds | 2 seeds |" in text


def test_a_run_on_other_weights_or_an_earlier_stage_is_told_apart_from_its_recipe(run: Path) -> None:
    path = run / "run.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('weights = "imagenet"', 'weights = "/nets/clothes.pt"'), encoding="utf-8")
    assert read_run(run).config == "clothing10, fine-tuned"
    path.write_text(text.replace("[model]", "[model]\nbackbone_stage = -2"), encoding="utf-8")
    assert read_run(run).config == "clothing10, stage -2"


def test_a_run_with_other_salience_or_another_number_of_prototypes_is_told_apart(run: Path) -> None:
    config = load_config(CONFIGS / "photographs.toml", ["data.path='/photos/cub10'"])
    text = config_to_toml(config, {"git": "abc", "torch": "2.15.0"})
    (run / "run.toml").write_text(text, encoding="utf-8")
    assert read_run(run).config == "photographs"
    lines = [line for line in text.splitlines() if not line.startswith("salience_stage")]
    (run / "run.toml").write_text("\n".join(lines), encoding="utf-8")
    assert read_run(run).config == "photographs, plain salience"
    changes = ["data.path='/photos/cub10'", "model.prototypes_per_class=10", "model.correct_class_weight=3"]
    config = load_config(CONFIGS / "photographs.toml", changes)
    (run / "run.toml").write_text(config_to_toml(config, {"git": "abc", "torch": "2.15.0"}), encoding="utf-8")
    assert read_run(run).config == "photographs, 10 a class"
    text = config_to_toml(config, {"git": "abc", "torch": "2.15.0"}).replace("salience = 1.0", "salience = 0.0")
    lines = [line for line in text.splitlines() if not line.startswith("salience_stage")]
    (run / "run.toml").write_text("\n".join(lines), encoding="utf-8")
    assert read_run(run).config == "photographs, salience 0, 10 a class"


def test_a_run_on_images_of_another_size_is_told_apart(run: Path) -> None:
    path = run / "run.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("image_size = 224", "image_size = 320"), encoding="utf-8")
    assert read_run(run).config == "clothing10, 320 pixels"


def test_a_run_with_other_settings_is_refused(run: Path) -> None:
    text = (run / "run.toml").read_text(encoding="utf-8")
    (run / "run.toml").write_text(text.replace("joint_epochs = 6", "joint_epochs = 7"), encoding="utf-8")
    with pytest.raises(ValueError, match="must have the settings of one file in examples/configs; got none"):
        read_run(run)


def test_the_table_has_the_newest_row_of_a_seed_and_the_mean_of_the_seeds(run: Path) -> None:
    row = read_run(run)
    rows: list[AccuracyRow] = [replace(row, pruned_last_layer=10.0), row, replace(row, seed=8, pruned_last_layer=80.5)]
    text = table(rows)
    assert "10.0" not in text
    assert "| **mean** | clothing10 | 2 seeds | **90.0** |  | **88.0** |  | **89.1** | **89.0** | **85.0** |" in text


def test_the_page_is_what_the_rows_generate() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert PLACE.insert(page, from_results()) == page, "run: python -m benchmarks accuracy --write"


@pytest.mark.parametrize("verb", [accuracy, trust])
def test_a_folder_that_is_no_finished_run_is_one_line_and_stores_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: ModuleType
) -> None:
    stored = [path.read_bytes() for path in (accuracy.ACCURACY, trust.TRUST)]
    with pytest.raises(SystemExit):
        verb.main([str(tmp_path / "none")])
    assert capsys.readouterr().err.endswith(f"got {tmp_path / 'none'}, which has no run.toml.\n")
    assert [path.read_bytes() for path in (accuracy.ACCURACY, trust.TRUST)] == stored
