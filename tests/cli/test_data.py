"""`protokern data inspect`: what a folder has, in lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from protokern.cli.main import main
from tests.data.published_data import write_cars, write_cub


def test_all_that_a_folder_has_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cub(tmp_path / "data")
    assert main(["data", "inspect", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("data: 32 files: 6 training (train_test_split.txt), 2 validation, 4 test (")
    assert "CUB-200-2011, in its published layout and split" in lines
    rows = [line.split() for line in lines]
    assert ["001.gull", "3", "1", "2"] in rows
    assert ["all", "2", "classes", "6", "2", "4"] in rows
    assert "width: 24 to 40 pixels, median 32" in lines
    assert "height: 24 to 40 pixels, median 32" in lines
    assert "colour modes: RGB 12" in lines
    assert "formats: JPEG 12" in lines
    assert "turned by their EXIF orientation: 0" in lines
    where = "for 6 of 6 training, 2 of 2 validation, 4 of 4 test images"
    assert f"boxes: bounding_boxes.txt, {where}; bird 12" in lines
    assert f"masks: segmentations/, {where}" in lines
    assert f"parts: parts/part_locs.txt, {where}; back 12" in lines
    assert "warning: 2 of 2 classes have fewer than 10 training images: 001.gull (3), 002.owl (3)." in "\n".join(lines)


def test_what_is_missing_is_said_with_what_uses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cars(tmp_path / "data")
    assert main(["data", "inspect", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "parts: none, there is no parts.csv; what uses them: consistency, stability, purity" in lines
    assert "masks: none, there is no masks/; what uses them: on_object, object_maps, completeness" in lines


def test_wrong_annotations_are_told_with_all_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cub(tmp_path / "data")
    (root / "bounding_boxes.txt").write_text("1 6 4 12 200\n")
    assert main(["data", "inspect", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (problem,) = [line for line in lines if line.startswith("annotations: they cannot be used: ")]
    assert "bounding_boxes.txt, line 1: must lie in images/001.gull/gull_0001.jpg" in problem
    assert any(line.startswith("colour modes: ") for line in lines)


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("protokern data: data: must be a folder; got ")
    assert main(["data", "look", str(tmp_path)]) == 2
    assert "invalid choice: 'look'" in capsys.readouterr().err
