"""The page of a run as a reader meets it. One browser serves all tests; nothing may reach for a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from protokern.report.page import write_explanation, write_report
from protokern.report.words import say_frame
from protokern.results.prototypes import ClassWeight, Prototype
from protokern.results.run import Report
from tests.report.conftest import CLASSES, FILE_NAME, PROOF, make_source, with_tested_frames

if TYPE_CHECKING:
    from playwright.sync_api import Page

OpenPage = Callable[..., "Page"]
HOSTILE = (
    "<script>document.title = 'caught'</script>",
    "</script><img src=x onerror=\"document.title = 'caught'\">",
    '" onmouseover="document.title=1" x="',
    "../../../etc/passwd",
    "x" * 300,
    "松鸦 Šojka סלע",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
    "&lt;b&gt; {{ 7 * 7 }} ${7 * 7}",
)


@pytest.fixture
def page_path(report_data: Report, tmp_path: Path) -> Path:
    path = tmp_path / "report" / "index.html"
    write_report(report_data, path)
    return path


def shown_cards(page: Page) -> list[str]:
    return page.eval_on_selector_all(".card", "all => all.filter(one => one.checkVisibility()).map(one => one.id)")


def wait_until_open(page: Page) -> None:
    page.wait_for_function("document.getElementById('sheet').open")


def wait_until_closed(page: Page) -> None:
    """The browser tells the page a moment after it closes a dialog; only then the address is right."""
    page.wait_for_function("!document.getElementById('sheet').open && !location.hash")


def test_the_class_filter_and_the_search_leave_what_fits_and_say_how_many(open_page: OpenPage, page_path: Path) -> None:
    page = open_page(page_path)
    count = page.locator("#class-count")
    assert count.text_content() == "6 prototypes"
    assert count.get_attribute("aria-live") == "polite"
    page.select_option("#class-picker", label=CLASSES[1])
    assert shown_cards(page) == ["prototype-2", "prototype-3"]
    assert count.text_content() == "2 of 6 prototypes"
    page.fill("#search", "prototype 3")
    assert shown_cards(page) == ["prototype-3"]
    page.select_option("#class-picker", "")
    page.fill("#search", "EICHELHÄHER")
    assert shown_cards(page) == ["prototype-4", "prototype-5"]
    page.fill("#search", "onerror=alert(2)")  # in the name of the source
    assert len(shown_cards(page)) == 5
    page.fill("#search", "colour hue")
    assert shown_cards(page) == ["prototype-0", "prototype-1"]
    page.fill("#search", "no such thing")
    assert shown_cards(page) == []
    assert page.locator(".class-group:visible").count() == 0
    page.click("#nothing button")
    assert count.text_content() == "6 prototypes"
    assert page.evaluate("document.activeElement.id") == "search"


def test_a_prototype_opens_with_all_that_is_known_of_it(open_page: OpenPage, page_path: Path) -> None:
    page = open_page(page_path)
    page.click("#prototype-0 .name a")
    text = page.locator("#sheet").inner_text()
    assert "Prototype 0" in text
    assert f"{CLASSES[0]} (1 of 6)" in text
    assert f"from {FILE_NAME}; moved by 0.25" in text
    assert "Mostly because of its colour (hue): changing that takes 0.80 off the similarity on average." in text
    assert "0.70 to 0.90" in text
    assert "2 of the 3 are of its class." in text
    assert "It is not of its class." in text
    assert page.locator("#sheet .near li").count() == 4
    assert page.locator("#sheet .near li.own").count() == 2
    assert page.locator("#sheet tbody tr").count() == 3 + 1  # reasons, and its class
    sizes = page.eval_on_selector_all("#sheet img", "all => all.map(one => [one.complete, one.naturalWidth])")
    assert len(sizes) == 3 + 4
    assert sizes[0] == [True, 32]
    assert page.evaluate("location.hash") == "#prototype-0"


def test_the_frame_and_the_receptive_field_are_drawn_where_they_are_and_can_be_hidden(
    open_page: OpenPage, page_path: Path
) -> None:
    page = open_page(page_path, fragment="#prototype-0")
    picture, frame = (page.locator(f"#sheet .sheet-pictures {what}").first.bounding_box() for what in ("img", ".frame"))
    assert picture is not None
    assert frame is not None
    assert frame["x"] - picture["x"] == pytest.approx(picture["width"] * 8 / 32, abs=1)
    assert frame["y"] - picture["y"] == pytest.approx(picture["height"] * 6 / 24, abs=1)
    assert frame["width"] == pytest.approx(picture["width"] * 16 / 32, abs=1)
    for kind in ("frame", "field"):
        assert page.locator(f"#sheet .{kind}:visible").count() > 0
        page.uncheck(f"#sheet [data-shows={kind}]")
        assert page.locator(f"#sheet .{kind}:visible").count() == 0
    page.keyboard.press("ArrowRight")
    assert page.locator("#sheet .frame:visible").count() == 0  # the choice stays for the next one


def test_a_tested_frame_says_its_numbers_and_marks_the_patch_and_nearest_patches_have_the_mark_alone(
    open_page: OpenPage, report_data: Report, tmp_path: Path
) -> None:
    write_report(with_tested_frames(report_data), tmp_path / "index.html")
    page = open_page(tmp_path / "index.html", fragment="#prototype-0")
    wait_until_open(page)
    assert say_frame(PROOF) in page.text_content("#sheet-body")
    own = page.locator("#sheet .sheet-pictures .seen").first
    picture: Any = own.bounding_box()
    mark: Any = own.locator(".cell-mark").bounding_box()
    # (8, 10, 12, 14) of 24 x 32 pixels.
    for side, share, whole in (("x", 10 / 32, "width"), ("y", 8 / 24, "height")):
        assert mark[side] - picture[side] == pytest.approx(share * picture[whole], abs=1)
    assert mark["width"] == pytest.approx(4 / 32 * picture["width"], abs=1)
    assert own.locator(".frame").is_visible()
    assert page.locator(".near .frame").count() == 0
    assert page.locator(".near .cell-mark").count() == 4
    page.uncheck("#sheet [data-shows=frame]")
    assert not own.locator(".frame").is_visible()
    assert not own.locator(".cell-mark").is_visible()


def test_the_keyboard_alone_is_enough(open_page: OpenPage, page_path: Path) -> None:
    page = open_page(page_path)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('#prototype-1 .name a')"):
            break
    page.keyboard.press("Enter")
    wait_until_open(page)
    title = page.locator("#sheet-title")
    assert title.text_content() == "Prototype 1"
    assert page.evaluate("document.activeElement.id") == "sheet-title"
    page.keyboard.press("ArrowRight")
    assert title.text_content() == "Prototype 2"
    assert page.evaluate("location.hash") == "#prototype-2"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert title.text_content() == "Prototype 5"  # from the first to the last
    for _ in range(30):  # the focus stays inside
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    wait_until_closed(page)
    assert page.evaluate("document.activeElement.matches('#prototype-1 .name a')")


def test_next_and_previous_walk_through_what_the_filter_left(open_page: OpenPage, page_path: Path) -> None:
    page = open_page(page_path)
    page.select_option("#class-picker", label=CLASSES[1])
    page.click("#prototype-2 .name a")
    assert "(1 of 2)" in str(page.locator("#sheet-place").text_content())
    page.click("[data-step='1']")
    assert page.locator("#sheet-title").text_content() == "Prototype 3"
    page.click("[data-step='1']")
    assert page.locator("#sheet-title").text_content() == "Prototype 2"
    page.click("[data-close]")
    wait_until_closed(page)


def test_an_address_leads_to_a_prototype_and_back(open_page: OpenPage, page_path: Path) -> None:
    page = open_page(page_path, fragment="#prototype-4")
    assert page.locator("#sheet-title").text_content() == "Prototype 4"
    page.keyboard.press("Escape")
    wait_until_closed(page)
    assert page.evaluate("document.activeElement.matches('#prototype-4 .name a')")
    page.click(".match figcaption a >> nth=0")
    assert page.locator("#sheet-title").text_content() == "Prototype 0"
    page.go_back()
    wait_until_closed(page)
    page.go_forward()
    wait_until_open(page)
    page.evaluate("location.hash = '#prototype-99'")  # of an older page, perhaps
    page.wait_for_function("!document.getElementById('sheet').open")


def test_hostile_names_are_text(open_page: OpenPage, report_data: Report, tmp_path: Path) -> None:
    cards = tuple(
        replace(card, source=make_source(name), classes=(ClassWeight(k, name, 1.0),))
        for k, (name, card) in enumerate(zip(HOSTILE, report_data.prototypes * 2, strict=False))
    )
    cards = tuple(replace(card, index=k) for k, card in enumerate(cards))
    data = Report(title=HOSTILE[1], classes=HOSTILE, prototypes=cards, notes=HOSTILE, settings=HOSTILE[1])
    path = tmp_path / "report" / "index.html"
    write_report(data, path, pictures="beside")
    page = open_page(path, width=390)
    body = page.locator("body").inner_text()
    for number, name in enumerate(HOSTILE):
        assert name in body
        page.click(f"#prototype-{number} .name a")
        assert name in page.locator("#sheet-body").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.keyboard.press("Escape")
        wait_until_closed(page)
        page.fill("#search", name)
        assert f"prototype-{number}" in shown_cards(page)
        page.fill("#search", "")
    assert page.title() == f"{HOSTILE[1]}, protokern"
    assert page.locator("img[src=x]").count() == 0
    outside = [
        file for file in tmp_path.rglob("*") if file.is_file() and file.parent.name != "pictures" and file != path
    ]
    assert outside == []
    assert all(file.stem.isalnum() for file in (tmp_path / "report" / "pictures").iterdir())


def test_dark_and_light_follow_the_system_and_then_the_reader(open_page: OpenPage, page_path: Path) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page = open_page(page_path, scheme=scheme)
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        other = "dark" if scheme == "light" else "light"
        assert page.locator("#theme").get_attribute("aria-label") == f"Show the page in {other} colours"
        page.click("#theme")
        colours[f"{scheme} turned"] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colours["light"] == colours["dark turned"] == "rgb(250, 248, 244)"
    assert colours["dark"] == colours["light turned"] == "rgb(19, 22, 24)"


def test_nothing_is_wider_than_a_phone(open_page: OpenPage, page_path: Path, pool_data: Report, tmp_path: Path) -> None:
    write_report(pool_data, tmp_path / "pool.html")
    write_explanation(pool_data.explanations[0], "run", tmp_path / "one.html")
    page = open_page(page_path, width=320, fragment="#prototype-0")
    assert page.evaluate("document.getElementById('sheet').scrollWidth") <= 320
    for path in (page_path, tmp_path / "pool.html", tmp_path / "one.html"):
        page.goto(path.as_uri())
        for width in (390, 320):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_pictures_beside_the_page_come_when_they_are_seen(open_page: Any, report_data: Report, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    many = tuple(replace(report_data.prototypes[k % 5], index=k) for k in range(400))
    write_report(replace(report_data, prototypes=many, explanations=()), path, pictures="beside")
    page = open_page(path)
    assert not [url for url in open_page.requests if url.endswith(".jpg")]  # the gallery is far below
    page.locator("#prototype-0").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#prototype-0 img').complete")
    assert page.evaluate("document.querySelector('#prototype-0 img').naturalWidth") == 32
    page.click("#prototype-0 .name a")
    page.wait_for_function(
        "[...document.querySelectorAll('#sheet .sheet-pictures img')].every(one => one.naturalWidth)"
    )


def test_on_paper_all_is_unfolded_and_dark_on_white(open_page: OpenPage, page_path: Path) -> None:
    page = open_page(page_path, scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(31, 36, 39)"
    assert page.locator(".top:visible, .filter:visible").count() == 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".explained details:not([open])").count() == 0
    page.evaluate("location.hash = '#prototype-0'")
    page.wait_for_function("document.getElementById('sheet').open")
    assert page.locator("main:visible").count() == 0  # an open sheet is printed alone
    assert page.locator("#sheet-body:visible").count() == 1


def test_without_javascript_there_is_a_summary_in_words(open_page: OpenPage, page_path: Path) -> None:
    page = open_page(page_path, has_script=False)
    body = page.locator("body").inner_text()
    assert "Without JavaScript the page is this summary" in body
    assert "because of colour (hue)" in body
    assert "looks like prototype 0" in body
    assert page.locator("img:visible, .filter:visible, #theme:visible").count() == 0


def test_a_run_without_a_push_says_so_and_shows_no_picture(open_page: OpenPage, tmp_path: Path) -> None:
    cards = tuple(Prototype(index=k, classes=(ClassWeight(k, f"class {k}", 1.0),)) for k in range(2))
    data = Report(title="bare", classes=("class 0", "class 1"), prototypes=cards, notes=("No push yet.",))
    write_report(data, tmp_path / "index.html")
    page = open_page(tmp_path / "index.html")
    assert "These prototypes are not patches of images yet" in page.locator("body").inner_text()
    page.click("#prototype-1 .name a")
    assert "Not a patch of an image." in page.locator("#sheet").inner_text()
    assert page.locator("img").count() == 0


def test_the_sheets_of_a_pool_say_which_similarities_they_show(
    open_page: OpenPage, pool_data: Report, tmp_path: Path
) -> None:
    write_report(pool_data, tmp_path / "index.html")
    page = open_page(tmp_path / "index.html", fragment="#prototype-0")
    words = "Similarities here are of the place alone, before that of the image on average comes off."
    assert (page.text_content("#sheet-body") or "").count(words) == 3  # reasons, patches of training and of test images
