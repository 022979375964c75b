"""A run folder as far as the pages read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.pages.accuracy import CONFIGS
from protokern.config import config_to_toml, load_config


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of `photographs` on birds, seed 7, with 83 % of the test images."""
    config = load_config(CONFIGS / "photographs.toml", ["train.seed=7", "data.path='/photos/birds'"])
    (tmp_path / "run.toml").write_text(config_to_toml(config, {"git": "abc", "torch": "2.15.0"}), encoding="utf-8")
    metrics = {
        "stages": {f"after_{name}": {"test": 0.83, "val": 0.8} for name in ("start", "live", "last_layer")},
        "images": {"train": 300, "val": 30, "test": 240},
        "seconds": {"live": 60.0},
        "prototypes": 30,
        "seed": 7,
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return tmp_path
