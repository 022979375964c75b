"""The programs of docs/python.md, and the one of README for notebooks, run as they are written, in their order."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from protokern.explain import Explanation
from protokern.explain.prototypes import write_prototypes
from protokern.nn import PrototypeLayer
from tests.cli.pushed_run import make_run
from tests.data.test_given import noise
from tests.interop.test_released import pp_net

ROOT = Path(__file__).resolve().parents[1]


def programs(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def run_on(program: str, names: dict[str, Any]) -> None:
    exec(compile(program, "python.md", "exec"), names)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two classes, a and b, and a photograph."""
    run = make_run(tmp_path, write=write_two_classes)
    assert run.push is not None
    write_prototypes(run.folder, run.model, run.splits, run.push)
    (tmp_path / "runs").mkdir()
    shutil.move(run.folder, tmp_path / "runs" / "birds")
    shutil.copytree(tmp_path / "runs" / "birds", tmp_path / "runs" / "photos-1")
    for name in ("bird.png", "photo.jpg"):
        Image.fromarray(noise(40, 40, 3)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_two_classes(root: Path) -> None:
    for split, count in (("train", 6), ("test", 3)):
        for seed, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise(40, 40, 3, seed=100 * seed + number)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")


def test_the_program_for_notebooks_in_the_readme_shows_a_page(folder: Path) -> None:
    program = programs("README.md")[0]
    lines = program.strip().splitlines()
    assert len([line for line in lines if line]) == 3
    names: dict[str, Any] = {}
    run_on("\n".join(lines[:-1]), names)
    shown = eval(lines[-1], names)
    assert isinstance(shown, Explanation)
    assert shown._repr_html_().startswith("<iframe")


@pytest.mark.slow
def test_the_programs_of_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'protokern[sklearn]'")
    shown: list[Explanation] = []
    monkeypatch.setattr(Explanation, "show", lambda explanation: shown.append(explanation))
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "classes": ["a", "b"],
        "ppnet": pp_net().eval(),
        "backbone": nn.Conv2d(3, 4, 8, stride=8),
        "prototype_layer": PrototypeLayer(5, 4),
        "last_layer": nn.Linear(5, 2),
        "images": torch.rand(2, 3, 32, 32),
        "dataset": [(torch.rand(3, 32, 32), k % 2) for k in range(8)],
        "photographs": [Image.fromarray(noise(40, 40, 3, seed=k) // (1 + k % 2)) for k in range(16)],
        "labels": np.arange(16) % 2,
    }
    one, contrast, gallery, wrapped, sklearn, logits, nearest = programs("docs/python.md")
    for program in (one, contrast, gallery):
        run_on(program, names)
    assert len(shown) == 1
    assert "a and not b" in capsys.readouterr().out
    assert {path.name for path in folder.glob("*.html")} == {"contrast.html", "prototypes.html"}
    run_on(logits, names)
    assert names["logits"].shape == (2, 2)
    for program in (wrapped, sklearn, nearest):
        run_on(program, names)
    assert names["search"].best_params_["prototypes_per_class"] in (1, 2)
    assert names["found"].image.shape == (16, 3)
    assert (folder / "why.html").exists()
    assert (folder / "nearest.html").exists()
