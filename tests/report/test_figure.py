from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protokern.report.figure import write_figure
from protokern.results.explanations import Explanation
from protokern.results.run import Report
from tests.report.conftest import with_tested_frames


def test_the_figure_is_a_picture_with_something_on_it(explained: Explanation, tmp_path: Path) -> None:
    write_figure(explained, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > 1000
    assert (pixels[0, 0] == 255).all()
    assert pixels.std() > 20


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_the_suffix_chooses_the_format(explained: Explanation, tmp_path: Path, suffix: str) -> None:
    write_figure(explained, tmp_path / f"one{suffix}")
    head = (tmp_path / f"one{suffix}").read_bytes()[:400]
    assert head.startswith(b"%PDF") if suffix == ".pdf" else b"<svg" in head


def test_names_that_look_like_formulas_are_drawn_as_they_are(explained: Explanation, tmp_path: Path) -> None:
    one = replace(explained.classes[0], class_name=r"$\frac{")
    write_figure(replace(explained, classes=(one,), name="$" * 300), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 0


def test_letters_that_no_font_has_are_told(explained: Explanation, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="names have letters that no font of this machine has"):
        write_figure(replace(explained, name="\U0010fffd"), tmp_path / "one.png")  # for private use
    assert (tmp_path / "one.png").stat().st_size > 0


def test_the_figure_of_a_pool_is_drawn(pool_data: Report, tmp_path: Path) -> None:
    write_figure(pool_data.explanations[0], tmp_path / "one.svg")
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert "slot 0: prototype 0, shared with" in text
    assert "3 of other classes or none" in text


def test_both_frames_of_a_match_say_what_they_were_tested_for(report_data: Report, tmp_path: Path) -> None:
    write_figure(with_tested_frames(report_data).explanations[0], tmp_path / "one.svg")
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert text.count("frame alone keeps 93 %; 18 % of the image") == 3  # prototype 5 is no patch of an image
    write_figure(report_data.explanations[0], tmp_path / "one.svg")
    assert "frame alone" not in (tmp_path / "one.svg").read_text(encoding="utf-8")


def test_a_row_at_least(explained: Explanation, tmp_path: Path) -> None:
    write_figure(explained, tmp_path / "one.png", max_matches=1)
    write_figure(explained, tmp_path / "two.png", max_matches=2)
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert one.width == two.width
        assert one.height < two.height
    with pytest.raises(ValueError, match="max_matches: must be at least 1; got 0"):
        write_figure(explained, tmp_path / "none.png", max_matches=0)
