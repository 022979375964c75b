"""Asking the net on its page: photographs come in by every way, and their patches can be looked into."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.app.browser.conftest import HOSTILE_FILES, Opened, Served, photograph, sent
from tests.cli.pushed_run import CLASSES

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

GIVE = """([kind, name, content]) => {
    const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type: "image/png" }));
    const about = kind === "paste" ? { clipboardData: data } : { dataTransfer: data };
    const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
    document.body.dispatchEvent(new Kind(kind, { bubbles: true, cancelable: true, ...about }));
}"""


def ask(page: Page, name: str = "stripes.png") -> Any:
    """Choose a photograph; return its answer."""
    page.set_input_files("#photographs", [sent(name)])
    answer = page.locator("#ask .answered").first
    answer.wait_for()
    return answer


def test_photographs_that_are_chosen_are_answered_with_reasons_the_newest_first(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    results = page.locator("#ask .result .explained")
    for place, name in enumerate(("one.png", "two.png")):
        page.set_input_files("#photographs", [sent(name, photograph("down" if place else "across"))])
        expect(results).to_have_count(place + 1)
    assert results.nth(0).locator(".answer p").first.inner_text() == "two.png"
    assert results.nth(1).locator(".answer p").first.inner_text() == "one.png"
    answer = results.nth(0).locator(".answer h3, .answer h4").inner_text()
    assert answer in ("<b>across", "down")
    assert f"Why {answer}" in results.nth(0).inner_text()
    assert "The right answer is not known here." in results.nth(0).inner_text()
    expect(page.locator("#ask [role=status]")).to_have_text(f"two.png: {answer}")  # for those who hear the page
    widths = page.evaluate(
        """() => Promise.all([...document.querySelectorAll("#ask .matches img")].map(async (one) => {
            one.loading = "eager";
            await one.decode();
            return one.naturalWidth;
        }))"""
    )
    assert len(widths) >= 8
    assert all(widths)


def test_several_photographs_have_a_list_of_their_answers(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    page.set_input_files(
        "#photographs", [sent(f"{name}.png", photograph(name)) for name in ("across", "down", "across")]
    )
    answers = page.locator("#ask .answers li")
    expect(answers).to_have_count(3)
    results = page.locator("#ask .result .explained")
    for place in range(3):
        assert results.nth(place).locator(".answer h4").inner_text() in answers.nth(place).inner_text()
    answers.nth(2).get_by_role("button").click()
    expect(results.nth(2)).to_be_in_viewport()


def test_who_knows_what_a_photograph_is_hears_why_it_was_not_answered_so(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    page.set_input_files("#photographs", [sent("one.png")])
    result = page.locator("#ask .explained")
    answer = result.locator(".answer h4").inner_text()
    other = next(name for name in CLASSES if name != answer)
    result.get_by_label("It really is").select_option(label=other)
    expect(result).to_contain_text(f"it is {other}")
    assert result.locator(".tag").inner_text() == "wrong"
    expect(result).to_contain_text(f"Why not {other}? The right answer.")
    assert result.get_by_label("It really is").input_value() == str(CLASSES.index(other))
    result.get_by_label("It really is").select_option(label="not told")
    expect(result).to_contain_text("The right answer is not known here.")


def test_a_photograph_can_be_dropped_and_pasted_wherever_the_reader_is(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    for kind in ("drop", "paste"):
        page.click("#prototype-1 .name a")
        expect(page.locator("#sheet")).to_be_visible()
        page.evaluate(GIVE, [kind, f"{kind}.png", base64.b64encode(photograph()).decode()])
        result = page.locator("#ask .explained", has_text=f"{kind}.png")
        expect(result).to_be_in_viewport()
        expect(page.locator("#sheet")).not_to_be_visible()


def test_what_is_no_image_is_told_in_a_sentence_and_the_next_one_is_answered(open_page: Opened, app: Served) -> None:
    open_page.expected.append("status of 400")
    page = open_page(app.address())
    name = f"{HOSTILE_FILES[0]}.png"
    page.set_input_files(
        "#photographs", [sent(name, b"<svg onload=alert(1)>"), sent("empty.png", b""), sent("good.png")]
    )
    expect(page.locator("#ask .explained")).to_have_count(1)
    told = page.locator("#ask .trouble")
    assert told.count() == 2
    assert name in told.nth(0).inner_text()
    assert "empty.png" in told.nth(1).inner_text()
    assert all("Traceback" not in text and len(text) < 400 for text in told.all_inner_texts())


def test_a_hostile_name_of_a_photograph_is_text(open_page: Opened, app: Served) -> None:
    names = ['"><img src=x onerror=alert(1)>.png', "\N{RIGHT-TO-LEFT OVERRIDE}סלע \N{BIRD}.png", "x" * 190 + ".png"]
    page = open_page(app.address(), width=390)
    page.set_input_files("#photographs", [sent(name) for name in names])
    answers = page.locator("#ask .explained")
    expect(answers).to_have_count(3)
    for answer, name in zip(answers.all(), names, strict=True):
        assert name in answer.inner_text()
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_patches_tell_what_is_like_them_by_pointer_and_by_keyboard(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    answer = ask(page)
    answer.locator(".explorer > summary").click()
    patches, told = answer.locator(".patches"), answer.locator(".told")
    patches.hover(position={"x": 2, "y": 2})
    expect(told).to_contain_text("Patch in row 1, column 1. The prototypes most like it:")
    likes = told.locator("li")
    expect(likes).to_have_count(3)
    shown = [float(re.sub(".*similarity ", "", text, flags=re.S)) for text in likes.all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    patches.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(told).to_contain_text("Patch in row 2, column 2.")
    page.keyboard.press("Shift+ArrowRight")
    expect(told).to_contain_text("1 by 2 patches.")
    patches.hover(position={"x": 2, "y": 2})
    expect(told).to_contain_text("1 by 2 patches.")  # what was chosen stays
    box = patches.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=3)
    page.mouse.up()
    files = app.rooms[0].files
    assert files is not None
    side = files.grid[0]
    expect(told).to_contain_text(f"{side} by {side} patches.")
    mark = patches.locator(".window").bounding_box()
    assert mark is not None
    assert mark["width"] == pytest.approx(box["width"], abs=2)


def test_the_training_patches_most_like_some_patches_can_be_explained(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    answer = ask(page)
    answer.locator(".explorer > summary").click()
    answer.get_by_role("button", name="Mark more").click()
    answer.get_by_role("button", name="Nearest training patches").click()
    near = answer.locator(".near-window li")
    expect(near).to_have_count(8)
    file = near.first.locator(".file").inner_text()
    assert file.startswith("train/")
    near.first.get_by_role("button", name="Explain").click()
    expect(page.locator("#image-dialog .explained")).to_contain_text(file)
    page.keyboard.press("Escape")
    expect(page.locator("#image-dialog")).not_to_be_visible()
    expect(near.first.get_by_role("button", name="Explain")).to_be_focused()


def test_tested_frames_come_on_demand_and_the_patches_stay_unfolded(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    answer = ask(page)
    answer.locator(".explorer > summary").click()
    answer.get_by_role("button", name="Test the frames").click()
    expect(answer).to_contain_text("The frames are tested", timeout=20_000)
    assert answer.get_by_role("button", name="Test the frames").count() == 0
    expect(answer.locator(".patches")).to_be_visible()
    expect(answer.locator(".answer h3, .answer h4")).to_be_focused()


def test_an_old_answer_says_so_after_an_edit_and_is_asked_again(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    answer = ask(page)
    old = answer.locator(".old")
    expect(old).not_to_be_visible()
    number = answer.locator('a[href^="#prototype-"]').first.inner_text()
    answer.locator('a[href^="#prototype-"]').first.click()
    page.get_by_role("button", name="Forbid it").click()
    expect(page.locator("#sheet")).to_contain_text("Allow it again")
    page.keyboard.press("Escape")
    expect(old).to_be_visible()
    old.get_by_role("button", name="Ask again").click()
    expect(old).not_to_be_visible()
    assert number not in answer.locator(".evidence").first.inner_text()


def test_two_runs_answer_side_by_side_and_their_prototypes_are_not_mixed_up(open_page: Opened, others: Served) -> None:
    page = open_page(others.address(1))
    page.get_by_label("run-2").uncheck()
    ask(page)
    columns = page.locator("#ask .result .of-run")
    expect(columns).to_have_count(2)
    assert columns.all_inner_texts() == ["run-1", "run-0"]
    first, second = (page.locator("#ask .result .answered").nth(k) for k in range(2))
    assert first.locator('a[href^="#prototype-"]').count() > 0
    assert second.locator('a[href^="#prototype-"]').count() == 0
    boxes = [one.bounding_box() for one in (first, second)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    first.locator(".explorer > summary").click()
    told = first.locator(".told").bounding_box()
    assert told is not None
    assert told["width"] > 200  # words have room beside the picture, or below it
