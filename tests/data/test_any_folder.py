"""The images of a folder of any layout, and what is said of one without any."""

from __future__ import annotations

from pathlib import Path

import pytest

from protokern.data.any_folder import list_images
from protokern.errors import DataError


def test_images_are_found_at_any_depth_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpg", "a/z/d.webp", "a/notes.txt", ".hidden.png", ".git/e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)] == ["a/c.jpg", "a/z/d.webp", "b.PNG"]


def test_a_folder_without_images_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--strangers: must be a folder with images in it; got .* nothing"):
        list_images(tmp_path)
    (tmp_path / "list.csv").write_text("")
    with pytest.raises(DataError, match="which holds 1 file of other kinds"):
        list_images(tmp_path)
    with pytest.raises(DataError, match=r"--strangers: must be a folder of images; got .*, which is none"):
        list_images(tmp_path / "nowhere")
