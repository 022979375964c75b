"""The section "Can this be trusted?" as a reader meets it: on a screen, on a phone, by keyboard, on paper, in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from protokern.report.page import write_report
from protokern.results.run import Report

if TYPE_CHECKING:
    from playwright.sync_api import Page

OpenPage = Callable[..., "Page"]


@pytest.fixture
def path(trusted_data: Report, tmp_path: Path) -> Path:
    write_report(trusted_data, tmp_path / "index.html")
    return tmp_path / "index.html"


def test_each_measure_is_a_sentence_with_its_bar_and_what_it_is_compared_with(open_page: OpenPage, path: Path) -> None:
    page = open_page(path)
    first = page.locator("#trust .measure").first
    assert "62.5% of the similarity of the best match is left." in first.inner_text()
    assert "50.0% to 75.0% (95 %); 8 pictures; more is better" in first.inner_text()
    assert "random patches as prototypes: 37.5%" in first.inner_text()
    track = first.locator(".track").bounding_box()
    fill, reference, whisker = (
        first.locator(f".track .{what}").bounding_box() for what in ("fill", "reference", "whisker")
    )
    assert track is not None
    assert fill is not None
    assert reference is not None
    assert whisker is not None
    assert fill["width"] / track["width"] == pytest.approx(0.625, abs=0.01)
    assert (reference["x"] + 1.5 - track["x"]) / track["width"] == pytest.approx(0.375, abs=0.01)
    assert (whisker["x"] - track["x"]) / track["width"] == pytest.approx(0.5, abs=0.01)
    assert page.locator("#trust .measure").count() == 4
    assert page.locator("#trust .track[aria-hidden=true]").count() == 4
    assert "box <b>jay</b>" in page.locator("#trust").inner_text()
    assert "purity\nit needs part centres" in page.locator("#trust .facts").inner_text()


def test_the_best_and_the_worst_prototypes_have_pictures_and_open_their_sheet(open_page: OpenPage, path: Path) -> None:
    page = open_page(path)
    ends = page.locator("#trust .measure").first.locator(".end")
    assert [ends.nth(k).locator("p").inner_text() for k in range(2)] == ["best", "worst"]
    assert ends.locator("img").count() == 5  # one of the six has no picture
    link = ends.nth(0).locator("a").first
    assert link.get_attribute("aria-label") == "Prototype 3, 100.0%"
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('sheet').open")
    text = page.locator("#sheet").inner_text()
    assert "Prototype 3" in text
    assert "similarity left without the surroundings" in text
    assert "repeats an earlier prototype" in text
    page.keyboard.press("ArrowRight")
    assert "87.5%" in page.locator("#sheet").inner_text()


def test_all_numbers_unfold_by_keyboard(open_page: OpenPage, path: Path) -> None:
    page = open_page(path)
    table = page.locator("#trust .numbers").first
    assert not table.is_visible()
    page.locator("#trust .measure summary").first.focus()
    page.keyboard.press("Enter")
    assert table.is_visible()
    assert "1 x 1 cells" in table.inner_text()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_and_the_marks_can_be_seen(
    open_page: OpenPage, path: Path, width: int, scheme: str
) -> None:
    page = open_page(path, width=width, scheme=scheme)
    page.evaluate("document.querySelectorAll('#trust details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = page.evaluate(
        """['.track.wide', '.track .fill', '.track .reference'].map(
            (what) => getComputedStyle(document.querySelector('#trust ' + what)).backgroundColor)"""
    )
    assert len(set(colours)) == 3


def test_on_paper_all_numbers_are_there(open_page: OpenPage, path: Path) -> None:
    page = open_page(path)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#trust .numbers").first.is_visible()


def test_without_a_script_the_sentences_are_there(open_page: OpenPage, path: Path) -> None:
    text = open_page(path, has_script=False).locator("noscript, main").first.inner_text()
    assert "Can this be trusted?" in text
    assert (
        "62.5% of the similarity of the best match is left. (50.0% to 75.0%); random patches as prototypes: 37.5%"
        in text
    )
