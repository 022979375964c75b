from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from protokern.storage import names
from protokern.storage.names import (
    fit_name,
    left_by_a_dead_process,
    longest_name,
    look_alike_key,
    name_outputs,
    one_line,
    temporary_path,
)

STEMS = ["bird", "a" * 240, "a" * 255, "鳥" * 85, "e\u0301" * 85, "\udce9t\udce9" * 60]


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("suffix", [".html", "-12.json"])
def test_a_name_fits_and_is_as_it_was_where_it_can_be(tmp_path: Path, stem: str, suffix: str) -> None:
    name = fit_name(stem, suffix, 255)
    assert len(os.fsencode(name)) <= 255
    assert name.endswith(suffix)
    assert (name == stem + suffix) == (len(os.fsencode(stem + suffix)) <= 255)
    (tmp_path / name).write_bytes(b"")


def test_names_that_begin_alike_stay_different() -> None:
    assert fit_name("a" * 254 + "b", ".html", 255) != fit_name("a" * 254 + "c", ".html", 255)


@pytest.mark.parametrize("stem", STEMS)
def test_a_file_of_any_legal_name_has_a_legal_temporary_name(tmp_path: Path, stem: str) -> None:
    for kind in ("tmp", "old"):
        temporary = temporary_path(tmp_path / stem, kind)
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"")
        assert left_by_a_dead_process(temporary.name) is not None


def test_a_file_system_of_shorter_names_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names.os, "pathconf", lambda path, what: 143)  # as eCryptfs says
    assert longest_name(tmp_path / "not" / "yet") == 143
    assert len(temporary_path(tmp_path / ("a" * 140)).name) <= 143


def test_what_a_dead_process_left_is_known_by_its_name() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert left_by_a_dead_process(f".run.toml.{dead.pid}.tmp") == "run.toml"
    assert left_by_a_dead_process(f".joint-2.{os.getpid()}.old") == "joint-2"
    assert left_by_a_dead_process(f".run.toml.{os.getppid()}.tmp") is None
    for name in (".gitignore", "run.toml.12.tmp", f".run.toml.{dead.pid}.bak"):
        assert left_by_a_dead_process(name) is None


def test_names_that_look_alike_have_one_key() -> None:
    assert look_alike_key("E\u0301te\u0301") == look_alike_key("\u00e9t\u00e9")
    assert look_alike_key("\udce9t\udce9") != look_alike_key("\u00e9t\u00e9")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a  b\n c.", "a b c."),
        ("\x1b[2Jbird\x07.png", "\\x1b[2Jbird\\x07.png"),
        ("\u00e9t\u00e9 \u9ce5 \udce9", "\u00e9t\u00e9 \u9ce5 \udce9"),
        ("", ""),
    ],
)
def test_a_text_becomes_one_line_that_steers_no_terminal(text: str, line: str) -> None:
    assert one_line(text) == line


def test_outputs_have_the_names_of_their_inputs_numbered_where_two_look_alike() -> None:
    names = name_outputs([Path("a/bird.png"), Path("b/Bird.jpg"), Path("owl.png")], (".html", ".json"), 255)
    assert names == [("bird.html", "bird.json"), ("Bird-2.html", "Bird-2.json"), ("owl.html", "owl.json")]
