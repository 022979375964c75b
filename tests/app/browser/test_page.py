"""The page of a run in the world: small screens, hostile names, several pages, servers that stop, runs without data."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.app.browser.conftest import HOSTILE_CLASSES, HOSTILE_FILES, Opened, Served, sent, serve
from tests.cli.pushed_run import PushedRun

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

CONTRAST = """(what) => [...document.querySelectorAll(what)].filter((one) => one.checkVisibility()).map((one) => {
    const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const over = (colours) => {
        paint.clearRect(0, 0, 1, 1);
        for (const colour of colours) (paint.fillStyle = colour), paint.fillRect(0, 0, 1, 1);
        return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const below = [];
    for (let at = one; at; at = at.parentElement) below.unshift(getComputedStyle(at).backgroundColor);
    const light = (colour) => {
        const [r, g, b] = colour.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const pair = [light(over(below)), light(over([...below, getComputedStyle(one).color]))];
    return Math.max(...pair) / Math.min(...pair);
})"""


def forbid(page: Page, number: int) -> None:
    page.click(f"#prototype-{number} .name a")
    page.get_by_role("button", name="Forbid it").click()
    expect(page.locator("#sheet")).to_contain_text("Allow it again")
    page.keyboard.press("Escape")
    expect(page.locator("#sheet")).not_to_be_visible()


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (390, "dark")])
def test_on_a_phone_nothing_is_too_wide_too_small_or_too_pale(
    open_page: Opened, app: Served, width: int, scheme: str
) -> None:
    page = open_page(app.address(), width=width, scheme=scheme, has_touch=True)
    page.set_input_files("#photographs", [sent("stripes.png")])
    answer = page.locator("#ask .explained")
    answer.locator(".explorer > summary").tap()
    answer.locator(".patches").tap(position={"x": 4, "y": 4})
    expect(answer.locator(".told")).to_contain_text("Patch in row 1, column 1.")
    page.locator("#prototype-2 .name a").tap()
    sheet = page.locator("#sheet")
    sheet.get_by_role("button", name="Use this instead").first.wait_for()
    assert sheet.evaluate("(one) => one.scrollWidth <= one.clientWidth")
    for what in ("button:not(.image-button)", "summary", "input[type=text]"):
        sizes = sheet.locator(what).evaluate_all(
            "all => all.filter((one) => one.checkVisibility()).map((one) => one.offsetHeight)"
        )
        assert min(sizes) >= 30, (what, sizes)
    sheet.get_by_role("button", name="Forbid it").tap()
    expect(sheet).to_contain_text("Allow it again")
    assert min(page.evaluate(CONTRAST, "#sheet p, #sheet button:enabled, #sheet .tag, #bar-text, .edit-bar a")) >= 4.5
    page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    texts = "#ask p, #ask .button, .old button, #edits p, #edits li, #images p, #images .small, .card p:not(.name)"
    assert min(page.evaluate(CONTRAST, texts)) >= 4.5
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    last, fixed = (page.locator(what).last.bounding_box() for what in ("main > section", ".edit-bar"))
    assert last is not None
    assert fixed is not None
    assert last["y"] + last["height"] <= fixed["y"] + 1  # the bar hides nothing at the end of the page


def test_names_of_classes_and_files_are_text_everywhere(open_page: Opened, others: Served) -> None:
    page = open_page(others.address(0), width=390)
    expect(page.locator("#bar-text")).to_contain_text("No edits yet.")
    body = page.locator("body").inner_text()
    assert all(name in body for name in HOSTILE_CLASSES)
    page.locator("#images select").first.select_option("train")
    expect(page.locator("#images .file").first).to_contain_text("train/")
    files = "\n".join(page.locator("#images .file").all_text_contents())
    assert all(name in files for name in HOSTILE_FILES)
    page.locator("#images .image-button").first.click()
    shown = page.locator("#image-dialog")
    shown.get_by_text("Look into its patches").click()
    shown.locator(".explorer").get_by_text("Make it a prototype").first.click()
    shown.get_by_label("Class of the new prototype").first.select_option(HOSTILE_CLASSES[1])
    shown.get_by_role("button", name="Add it").first.click()
    expect(page.locator("#bar-text")).to_contain_text("was added as a prototype of")
    assert shown.evaluate("(one) => one.scrollWidth <= one.clientWidth")
    page.keyboard.press("Escape")
    assert HOSTILE_CLASSES[1] in page.locator("#edits .history").inner_text()
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#bar-text")).to_contain_text("Undone:")
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_edit_on_one_page_appears_on_the_other_and_nothing_is_lost(open_page: Opened, app: Served) -> None:
    one = open_page(app.address())
    other = open_page(app.address(), beside=one.context)
    other.click("#prototype-4 .name a")
    other.get_by_label("Why prototype 4 is forbidden").fill("half a reas")
    forbid(one, 1)
    expect(other.locator("#bar-text")).to_contain_text("Prototype 1 was forbidden.")
    reason = other.get_by_label("Why prototype 4 is forbidden")
    assert reason.input_value() == "half a reas"
    reason.press_sequentially("on")
    reason.press("Enter")
    expect(other.locator("#sheet")).to_contain_text("forbidden half a reason")
    expect(one.locator("#edits .history li")).to_have_text(
        ["Prototype 1 was forbidden", "Prototype 4 was forbidden: half a reason"]
    )
    assert "forbidden half a reason" in one.locator("#prototype-4").inner_text()


def test_a_page_that_has_not_seen_the_last_edit_does_not_undo_it(open_page: Opened, app: Served) -> None:
    open_page.expected.append("status of 409")
    one = open_page(app.address())
    other = open_page(app.address(), beside=one.context)
    forbid(one, 0)
    expect(other.locator("#bar-text")).to_contain_text("Prototype 0 was forbidden.")
    other.route("**/state?*", lambda route: route.abort())  # it hears nothing more
    open_page.expected.append("ERR_FAILED")
    forbid(one, 2)
    other.get_by_role("button", name="Undo", exact=True).click()
    other.unroute("**/state?*")
    expect(other.locator("#bar-text")).to_contain_text("changed on another page, and nothing was undone")
    expect(other.locator("#edits .history li")).to_have_text(["Prototype 0 was forbidden", "Prototype 2 was forbidden"])
    other.get_by_role("button", name="Undo", exact=True).click()
    expect(other.locator("#bar-text")).to_contain_text("Undone: Prototype 2 was forbidden.")


def test_a_server_that_stops_is_told_and_taken_up_again(open_page: Opened, app: Served) -> None:
    open_page.expected.append("ERR_")
    page = open_page(app.address())
    expect(page.locator("#bar-text")).to_contain_text("No edits yet.")
    page.click("#prototype-0 .name a")
    page.get_by_label("Why prototype 0 is forbidden").fill("kept")
    app.stop()
    try:
        page.get_by_role("button", name="Forbid it").click()
        expect(page.locator("#sheet").get_by_role("alert").first).to_contain_text("The server does not answer.")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#bar-text")).to_contain_text("The server does not answer.")
    finally:
        app.start()
    expect(page.locator("#bar-text")).to_contain_text("No edits yet.")
    assert page.get_by_label("Why prototype 0 is forbidden").input_value() == "kept"
    page.get_by_role("button", name="Forbid it").click()
    expect(page.locator("#bar-text")).to_contain_text("Prototype 0 was forbidden: kept.")


def test_while_images_are_read_photographs_are_answered_and_the_open_sheet_gets_its_buttons(
    open_page: Opened, small_run: PushedRun
) -> None:
    served = serve([small_run.folder], is_prepared=False)
    try:
        page = open_page(served.address())
        expect(page.locator("#bar-text")).to_have_text("The images of the run are being read.")
        expect(page.locator("#edits")).to_contain_text("The images of the run are being read.")
        expect(page.locator("#images")).to_contain_text("The images of the run are being read.")
        page.set_input_files("#photographs", [sent("stripes.png")])
        expect(page.locator("#ask .explained")).to_contain_text("stripes.png")
        page.click("#prototype-0 .name a")
        assert page.get_by_role("button", name="Forbid it").count() == 0
        working = threading.Thread(target=served.rooms[0].prepare)
        working.start()
        expect(page.get_by_role("button", name="Forbid it")).to_be_visible(timeout=20_000)
        expect(page.locator("#sheet").get_by_text("Nearest patches in the training images")).to_be_visible()
        working.join()
        page.keyboard.press("Escape")
        expect(page.locator("#images .image-button").first).to_be_visible()
        page.context.close()  # before its server is gone
    finally:
        served.stop()


def test_a_run_without_its_data_answers_and_says_why_nothing_can_be_edited(open_page: Opened, others: Served) -> None:
    page = open_page(others.address(2))
    expect(page.locator("#bar-text")).to_contain_text("Start the page with --data DIR.")
    for place in ("#images", "#edits"):
        assert "Start the page with --data DIR." in page.locator(place).inner_text()
    for name in ("run-0", "run-1"):
        page.get_by_label(name).uncheck()
    page.set_input_files("#photographs", [sent("stripes.png")])
    expect(page.locator("#ask .explained")).to_contain_text("stripes.png")
    page.click("#prototype-0 .name a")
    expect(page.locator("#sheet")).to_be_visible()
    assert page.get_by_role("button", name="Forbid it").count() == 0
    assert page.get_by_role("button", name="Undo", exact=True).count() == 0


def test_a_net_that_cannot_be_edited_says_so_and_its_images_are_shown(open_page: Opened, others: Served) -> None:
    page = open_page(others.address(1))
    refusal = others.rooms[1].refusal
    assert refusal
    expect(page.locator("#bar-text")).to_have_text(refusal)
    assert refusal in page.locator("#edits").inner_text()
    expect(page.locator("#images .image-button").first).to_be_visible()
    page.click("#prototype-0 .name a")
    expect(page.locator("#sheet").get_by_text("Nearest patches in the training images")).to_be_visible()
    assert page.get_by_role("button", name="Use this instead").count() == 0


def test_images_and_prototypes_open_above_each_other_and_the_way_back_leads_through_them(
    open_page: Opened, app: Served
) -> None:
    page = open_page(app.address())
    first = page.locator("#images .image-button").first
    first.click()
    image, sheet = page.locator("#image-dialog"), page.locator("#sheet")
    image.get_by_text("Look into its patches").click()
    expect(image).to_contain_text("Patches of training images alone can become prototypes.")
    link = image.locator('a[href^="#prototype-"]').first
    number = str(link.get_attribute("href")).removeprefix("#prototype-")
    link.click()
    expect(page.locator("#sheet-title")).to_be_focused()
    decided = sheet.locator(".image-button").first
    decided.click()
    expect(page.locator("#image-title")).to_be_focused()  # above the sheet, where it can be reached
    expect(image.locator(".explained")).to_be_visible()
    assert "#image-test-" in page.url
    page.go_back()
    expect(image).not_to_be_visible()
    expect(page).to_have_url(f"{app.address()}#prototype-{number}")
    page.keyboard.press("Escape")
    expect(sheet).not_to_be_visible()
    expect(page).to_have_url(app.address())
    first.click()
    link.click()
    page.keyboard.press("Escape")
    expect(link).to_be_focused()
    page.keyboard.press("Escape")
    expect(first).to_be_focused()
    page.goto(app.address() + "#image-val-1")
    expect(image.locator(".explained")).to_be_visible()
