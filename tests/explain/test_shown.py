"""Explanations and reports as the output of a notebook's cell, and as files."""

from __future__ import annotations

import re
import shutil
import sys
import webbrowser
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from protokern.explain import Explanation, Report, explain_image
from protokern.explain.prototypes import write_prototypes
from protokern.report import page as page_module
from protokern.results.prototypes import Prototype
from tests.cli.pushed_run import make_run
from tests.explain.small_models import small_model
from tests.report.test_page import read_page

DOCS = Path(__file__).resolve().parents[2] / "docs"


class Frames(HTMLParser):
    """The attributes of each frame in a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "iframe"
        self.found.append(dict(attrs))


def frame_of(shown: Explanation | Report) -> dict[str, str | None]:
    (frame,) = Frames(shown._repr_html_()).found
    return frame


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    return explain_image(small_model(), torch.rand(3, 24, 40))


def test_an_explanation_is_a_page_in_a_frame_that_reaches_nothing(explanation: Explanation) -> None:
    frame = frame_of(explanation)
    assert frame["sandbox"] == "allow-scripts"
    page = str(frame["srcdoc"])
    assert page.startswith("<!doctype html>")
    assert read_page(page)["item"]["answer"] == f"class {explanation.predicted}"
    assert "http" not in re.sub(r"[A-Za-z0-9+/=]{200,}", "", page)


def test_what_is_saved_is_what_is_shown(explanation: Explanation, tmp_path: Path) -> None:
    explanation.save(tmp_path / "one.html")
    assert (tmp_path / "one.html").read_text(encoding="utf-8") == frame_of(explanation)["srcdoc"]


def test_in_words_an_explanation_is_one_short_line(explanation: Explanation) -> None:
    first = explanation.classes[0]
    assert repr(explanation) == f"Explanation: {first.class_name}, {first.logit:.2f} points ({first.probability:.1%})"


def test_a_report_shows_itself_unless_its_pictures_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report(title="run", classes=("a", "b"), prototypes=(Prototype(index=0, classes=()),))
    assert repr(report) == "Report of run: 1 prototypes, 2 classes"
    assert read_page(str(frame_of(report)["srcdoc"]))["overview"]["title"] == "run"
    report.save(tmp_path / "index.html")
    assert (tmp_path / "index.html").exists()
    monkeypatch.setattr(page_module, "MOST_INSIDE", -1)
    assert report._repr_html_() == (
        "<p>The pictures of this report are too large for a notebook. Write its page with save(path).</p>"
    )


def test_outside_of_a_notebook_the_browser_opens_the_page(
    explanation: Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def open_page(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", open_page)
    explanation.show()
    (address,) = opened
    page = Path(address.removeprefix("file://"))
    assert read_page(page.read_text(encoding="utf-8"))["item"]
    shutil.rmtree(page.parent)
    monkeypatch.setattr(webbrowser, "open", lambda address: shutil.rmtree(Path(address[7:]).parent))
    with pytest.raises(
        RuntimeError, match=r"show: must find a browser; there is none. Write the page with save\(path\)"
    ):
        explanation.show()


def test_in_a_notebook_the_page_is_the_output_of_the_cell(
    explanation: Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules with the names of IPython's stand for it, which is not installed for the tests."""
    outputs: list[Any] = []
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    monkeypatch.setattr(ipython, "get_ipython", lambda: SimpleNamespace(kernel=object()), raising=False)
    monkeypatch.setattr(display, "display", outputs.append, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    explanation.show()
    assert outputs[0] is explanation
    assert len(outputs) == 1


def test_the_program_in_the_documents_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    assert run.push is not None
    write_prototypes(run.folder, run.model, run.splits, run.push)
    (tmp_path / "runs").mkdir()
    shutil.move(run.folder, tmp_path / "runs" / "birds")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("one.png", "two.png"):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(name)
    shown: list[str] = []
    monkeypatch.setattr(Explanation, "show", lambda self: shown.append(self._repr_html_()))
    monkeypatch.setattr(Report, "show", lambda self: shown.append(self._repr_html_()))
    text = (DOCS / "explaining.md").read_text(encoding="utf-8").partition("## In a notebook")[2]
    (program,) = re.findall(r"```python\n(.*?)```", text.partition("\n## ")[0], flags=re.DOTALL)
    exec(compile(program, "explaining.md", "exec"), {})
    explanation, report = (read_page(str(Frames(page).found[0]["srcdoc"])) for page in shown)
    assert explanation["model"] == "birds"
    assert explanation["item"]["name"] == "one.png"
    assert explanation["item"]["first"]["reasons"][0]["there_proof"].startswith("This frame alone keeps")
    assert report["overview"]["title"] == "birds"
    assert report["explanations"]["items"]
    assert read_page(Path("two.html").read_text(encoding="utf-8"))["item"]["name"] == "two.png"
    assert capsys.readouterr().out.splitlines()[-1].startswith("6 ")
