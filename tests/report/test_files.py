from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from protokern.report.files import write_page
from protokern.report.images import PictureShelf, Stored


def make_pictures(*values: int) -> list[Stored]:
    shelf = PictureShelf()
    return [shelf.find(np.full((8, 8, 3), value, np.uint8)) for value in values]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_pictures_lie_beside_the_page_and_those_of_the_page_before_go(tmp_path: Path) -> None:
    page, (one, two, three) = tmp_path / "index.html", make_pictures(0, 100, 200)
    write_page("first", page, [one, two])
    kept = tmp_path / "pictures" / two.name
    before = kept.stat().st_mtime_ns
    write_page("second", page, [two, three])
    assert names(tmp_path) == {"index.html", f"pictures/{two.name}", f"pictures/{three.name}"}
    assert kept.stat().st_mtime_ns == before  # it was whole, so it was not touched
    assert kept.read_bytes() == two.data
    write_page("third", page, [])
    assert names(tmp_path) == {"index.html"}
    assert not (tmp_path / "pictures").exists()


def test_an_old_page_keeps_its_pictures_until_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, (one, two) = tmp_path / "index.html", make_pictures(0, 100)
    write_page("old", page, [one])
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if target == page:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_page("new", page, [two])
    assert page.read_text() == "old"
    assert (tmp_path / "pictures" / one.name).read_bytes() == one.data
    monkeypatch.setattr(os, "replace", replace)
    write_page("new", page, [two])
    assert names(tmp_path) == {"index.html", f"pictures/{two.name}"}


def test_a_broken_picture_is_written_anew_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    page, (one, two) = tmp_path / "index.html", make_pictures(0, 100)
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / one.name).write_bytes(b"half")
    (folder / f".{two.name}.123.tmp").write_bytes(b"half")
    (folder / "holiday.jpg").write_bytes(b"mine")
    write_page("page", page, [one])
    assert (folder / one.name).read_bytes() == one.data
    assert names(folder) == {one.name, "holiday.jpg"}
    write_page("page", page, [])
    assert names(folder) == {"holiday.jpg"}


def test_a_page_without_a_folder_leaves_that_of_another(tmp_path: Path) -> None:
    (one,) = make_pictures(0)
    write_page("report", tmp_path / "index.html", [one])
    write_page("explanation", tmp_path / "bird.html")
    assert (tmp_path / "pictures" / one.name).exists()


def test_letters_that_no_text_can_hold_become_question_marks(tmp_path: Path) -> None:
    write_page("name\udcff.jpg Šojka", tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == "name?.jpg Šojka"
