"""The examples run and do what they say."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.cli.main import main

ROOT = Path(__file__).resolve().parents[1]


def run_example(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_layer_learns_in_a_net_of_its_own() -> None:
    """The three classes differ by the colour of one patch, which is all that the layer looks at."""
    accuracy = re.search(r"^accuracy ([\d.]+)$", run_example("examples/own_layer.py"), flags=re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy.group(1)) >= 0.9


def test_an_accelerated_net_agrees_and_is_exact_at_its_prototypes() -> None:
    output = run_example("examples/accelerate_released_net.py")
    assert "same keys True" in output
    differences = [float(number) for number in re.findall(r"^largest difference .* ([\d.e+-]+)$", output, flags=re.M)]
    assert len(differences) == 2
    assert max(differences) < 1e-10
    similarity = re.search(r"^similarity to its own patch, AcceleratedPPNet: ([\d.]+)", output, flags=re.MULTILINE)
    assert similarity is not None
    assert similarity.group(1) == "9.2103"


def test_the_demo_tells_its_numbers_and_paints_a_bird(tmp_path: Path) -> None:
    run, bird = tmp_path / "run", tmp_path / "bird.png"
    config = ROOT / "examples/configs/demo.toml"
    changes = [
        "data.image_size=32",
        "data.birds_classes=2",
        "data.birds_train=6",
        "data.birds_val=2",
        "data.birds_test=3",
        "train.joint_epochs=1",
        "train.last_layer_epochs=1",
    ]
    flags = [part for change in changes for part in ("--set", change)]
    assert main(["train", "--config", str(config), "--out", str(run), *flags]) == 0
    after_push, at_the_end = run_example("examples/demo.py", str(run), str(bird)).splitlines()
    numbers = r": test accuracy [\d.]+%, \d+ prototypes, [\d.]+% of their patch centres on the bird"
    assert re.fullmatch("after the push" + numbers, after_push)
    assert re.fullmatch("at the end" + numbers, at_the_end)
    with Image.open(bird) as image:
        assert image.size == (32, 32)


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")
def test_optuna_searches_settings_on_stored_features(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 1)):
        for k, name in enumerate(("dark", "light")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(128 * k, 128 * (k + 1), (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    fixed = [
        "model.backbone=tiny",
        "model.weights=none",
        "model.salience=0",
        "model.salience_stage=none",
        "data.image_size=32",
    ]
    output = run_example(
        "examples/tune_with_optuna.py",
        str(tmp_path),
        *("--trials", "7", "--epochs", "3"),
        *(word for change in [*fixed, "train.batch_size=4"] for word in ("--set", change)),
    )
    assert re.search(r"^7 trials, \d of them given up early$", output, flags=re.MULTILINE)
    rows = re.findall(r"^ +\d+ +([\d.]+)%  .*$", output, flags=re.MULTILINE)
    assert [float(row) for row in rows] == sorted(map(float, rows), reverse=True)
    command = output.strip().splitlines()[-1].split()
    assert command[:5] == ["protokern", "train", "--recipe", "quick", "--data"]
    assert command[5] == str(tmp_path)
    assert "train.weight_decay" in output
