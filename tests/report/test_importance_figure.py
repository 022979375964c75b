"""The figure of importance is drawn in every format, and the same scores give the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.report.importance_figure import write_importance_figure
from tests.report.test_grids import svg_words

SCORES = np.random.default_rng(0).normal(0.5, 0.3, (3, 12))


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_figure_in_any_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"figure.{suffix}"
    write_importance_figure(["hue", "shape", "<b>$x$"], SCORES, SCORES / 2, path)
    if suffix == "png":
        with Image.open(path) as image:
            assert image.width > 1000
    else:
        assert path.stat().st_size > 1000


def test_text_stays_text(tmp_path: Path) -> None:
    write_importance_figure(["hue", "<b>$x$"], SCORES[:2], SCORES[:2], tmp_path / "figure.svg")
    assert {"hue", "<b>$x$", "training images"} <= {*svg_words(tmp_path / "figure.svg")}


def test_the_same_scores_give_the_same_drawing(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        write_importance_figure(["hue", "shape", "mine"], SCORES, SCORES / 2, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_one_prototype_and_scores_that_are_all_alike(tmp_path: Path) -> None:
    write_importance_figure(["hue"], np.zeros((1, 1)), np.zeros((1, 1)), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()
