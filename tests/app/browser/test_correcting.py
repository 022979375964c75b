"""Correcting the net on its page: every edit, undone and done again, saved, by pointer and by keyboard alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.app.browser.conftest import Opened, Served
from tests.cli.pushed_run import CLASSES, PushedRun

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page


def bar(page: Page) -> Any:
    return page.locator("#bar-text")


def open_sheet(page: Page, number: int) -> Any:
    page.click(f"#prototype-{number} .name a")
    sheet = page.locator("#sheet")
    expect(sheet).to_contain_text(f"Prototype {number}")
    return sheet


def open_training_image(page: Page) -> Any:
    """The first training image, explained, with the form that makes a patch of it a prototype."""
    images = page.locator("#images")
    images.get_by_label("Of the").select_option("train")
    expect(images.locator("output")).to_contain_text("8 of 8 images")
    expect(images.locator(".file").first).to_contain_text("train/")
    images.locator(".image-button").first.click()
    shown = page.locator("#image-dialog")
    shown.get_by_text("Look into its patches").click()
    shown.locator(".explorer").get_by_text("Make it a prototype").first.click()
    return shown


def history(page: Page) -> list[str]:
    return page.locator("#edits .history li").all_inner_texts()


def test_a_prototype_is_forbidden_with_a_reason_and_the_page_says_at_once_what_that_did(
    open_page: Opened, app: Served
) -> None:
    page = open_page(app.address())
    expect(bar(page)).to_have_text("No edits yet. Right validation images: 75.0%.")
    sheet = open_sheet(page, 2)
    reason = sheet.get_by_label("Why prototype 2 is forbidden")
    reason.fill("a coat hangr")
    reason.press("ArrowLeft")  # in the text, not to the prototype before
    reason.press("e")
    sheet.get_by_role("button", name="Forbid it").click()
    expect(sheet).to_contain_text("forbidden a coat hanger. The net does without it.")
    expect(sheet.locator("#bar-text")).to_contain_text(
        "Prototype 2 was forbidden: a coat hanger. Right validation images:"
    )
    expect(sheet).to_contain_text("All validation images are answered as they were")
    assert sheet.locator("#sheet-title").inner_text() == "Prototype 2"
    sheet.get_by_role("link", name="What changed").click()
    expect(page.locator("#edits h2")).to_be_in_viewport()
    assert history(page) == ["Prototype 2 was forbidden: a coat hanger"]
    numbers = page.locator("#edits tbody tr", has_text="prototypes").first.locator("td").all_inner_texts()
    assert numbers == ["6", "5"]
    assert "forbidden a coat hanger" in page.locator("#prototype-2").inner_text()


def test_a_class_is_limited_and_the_limit_is_lifted(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    edits = page.locator("#edits")
    edits.get_by_text("Limit what speaks for a class").click()
    edits.get_by_label("Class that is limited").select_option(label=CLASSES[1])
    edits.get_by_label("How prototypes of other classes may speak").select_option(label="not at all")
    edits.get_by_role("button", name="Limit it").click()
    said = f"For {CLASSES[1]}: its own prototypes speak only for it; prototypes of other classes say nothing about it"
    expect(bar(page)).to_contain_text(said)
    assert history(page) == [said]
    expect(edits.locator(".limits")).to_contain_text(
        f"{CLASSES[1]}: its own prototypes may speak only for it, those of other classes not at all."
    )
    weight = app.rooms[0].current.run.model.prototype_weight  # (K, P)
    is_own = app.rooms[0].current.run.model.class_identity[:, 1] > 0
    assert bool((weight[1][is_own] >= 0).all())
    assert not weight[1][~is_own].any()
    edits.get_by_role("button", name=f"Lift the limit of {CLASSES[1]}").click()
    expect(edits.locator(".limits")).to_have_count(0)
    assert history(page)[1] == f"For {CLASSES[1]}: no limit any more"


def test_another_patch_is_chosen_for_a_prototype_from_its_sheet(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    open_sheet(page, 3).get_by_role("button", name="Choose another patch for it").click()
    images = page.locator("#images")
    expect(images).to_contain_text("Open a training image and mark the part that shall be prototype 3.")
    assert images.get_by_label("Of the").input_value() == "train"
    assert images.get_by_label("Class").input_value() == "1"
    expect(images.locator(".file").first).to_contain_text("train/")
    images.locator(".image-button").first.click()
    shown = page.locator("#image-dialog")
    expect(shown.locator(".patches")).to_be_visible()
    assert shown.get_by_label("Prototype that is replaced").first.input_value() == "3"
    shown.locator(".patches").click(position={"x": 9, "y": 9})
    shown.get_by_role("button", name="Put it there").first.click()
    expect(bar(page)).to_contain_text("Prototype 3 became a patch of train/")
    page.keyboard.press("Escape")
    expect(images.get_by_text("Open a training image and mark")).to_be_hidden()
    images.locator(".image-button").first.click()  # nothing is chosen any more, so the image is only explained
    expect(shown.get_by_text("Look into its patches")).to_be_visible()
    expect(shown.locator(".patches")).to_be_hidden()


def test_the_link_to_a_prototype_goes_when_the_edit_is_undone(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    shown = open_training_image(page)
    shown.get_by_role("button", name="Add it").click()
    link = shown.get_by_role("link", name="prototype 6")
    expect(link).to_be_visible()
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(bar(page)).to_contain_text("Undone")
    expect(link).to_have_count(0)


def test_an_edit_is_undone_and_done_again_and_the_focus_stays(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    open_sheet(page, 0).get_by_role("button", name="Forbid it").click()
    expect(bar(page)).to_contain_text("Prototype 0 was forbidden.")
    undo, redo = (page.get_by_role("button", name=name, exact=True) for name in ("Undo", "Redo"))
    undo.click()
    expect(bar(page)).to_contain_text("Undone: Prototype 0 was forbidden.")
    expect(page.locator("#sheet")).to_contain_text("Forbid it")
    expect(undo).to_be_disabled()
    expect(redo).to_be_focused()  # the only one that can be pressed
    page.keyboard.press("Enter")
    expect(bar(page)).to_contain_text("Done again: Prototype 0 was forbidden.")
    expect(page.locator("#sheet")).to_contain_text("Allow it again")
    page.get_by_role("button", name="Allow it again").click()
    expect(bar(page)).to_contain_text("Prototype 0 was kept.")
    page.keyboard.press("Escape")
    assert history(page) == ["Prototype 0 was forbidden", "Prototype 0 was kept"]


def test_a_prototype_is_replaced_by_one_of_its_nearest_patches(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    sheet = open_sheet(page, 1)
    before = sheet.locator(".small.muted", has_text="from train/").first.inner_text()
    near = sheet.locator("li", has=page.get_by_role("button", name="Use this instead"))
    file = near.nth(1).locator(".file").inner_text()
    near.nth(1).get_by_role("button").click()
    expect(bar(page)).to_contain_text(f"Prototype 1 became a patch of {file}.")
    expect(sheet.get_by_text(f"from {file}")).to_be_in_viewport()
    assert file not in before
    page.keyboard.press("Escape")
    assert file in page.locator("#prototype-1").inner_text()


def test_a_patch_of_a_training_image_becomes_a_prototype_and_takes_the_place_of_one(
    open_page: Opened, app: Served
) -> None:
    page = open_page(app.address())
    shown = open_training_image(page)
    shown.get_by_label("Class of the new prototype").first.select_option(CLASSES[1])
    shown.get_by_role("button", name="Add it").first.click()
    link = shown.locator(".explorer .use a").first
    expect(link).to_have_text("prototype 6")
    expect(shown.locator("#bar-text")).to_contain_text(f"was added as a prototype of {CLASSES[1]}.")
    link.click()
    expect(page.locator("#sheet-title")).to_have_text("Prototype 6")
    expect(page.locator("#sheet-place")).to_contain_text(CLASSES[1])
    page.go_back()
    expect(page.locator("#sheet")).not_to_be_visible()
    expect(shown).to_be_visible()
    shown.get_by_label("Prototype that is replaced").first.select_option("3")
    shown.get_by_role("button", name="Put it there").first.click()
    expect(bar(page)).to_contain_text("Prototype 3 became a patch of train/")
    expect(shown.locator(".explorer .use a").first).to_have_text("prototype 3")


def test_a_prototype_is_given_to_other_classes_and_not_to_none(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    sheet = open_sheet(page, 4)
    sheet.get_by_text("Give it to other classes").click()
    sheet.get_by_label(CLASSES[1], exact=True).uncheck()
    give = sheet.get_by_role("button", name="Give it to these classes")
    give.click()
    expect(sheet.get_by_role("alert")).to_contain_text("Choose a class at least.")
    sheet.get_by_label(CLASSES[0], exact=True).check()
    give.click()
    expect(bar(page)).to_contain_text(f"Prototype 4 was given to {CLASSES[0]}.")
    expect(sheet.locator("#sheet-place")).to_contain_text(CLASSES[0])


def test_a_class_without_a_prototype_is_warned_of(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    for number in (0, 1, 2):
        open_sheet(page, number).get_by_role("button", name="Forbid it").click()
        expect(bar(page)).to_contain_text(f"Prototype {number} was forbidden.")
        page.keyboard.press("Escape")
        expect(page.locator("#sheet")).not_to_be_visible()
    expect(page.locator("#edits")).to_contain_text(f"No prototype is left for {CLASSES[0]}")
    changed = page.locator("#edits .images .image-button")
    told = page.locator("#edits").get_by_text("validation images are answered differently")
    assert changed.count() == int(told.inner_text().split()[0])
    changed.first.click()
    expect(page.locator("#image-dialog .explained")).to_contain_text("Why ")


def test_edits_are_saved_as_a_new_run_once(open_page: Opened, app: Served, small_run: PushedRun) -> None:
    open_page.expected.append("status of 400")
    page = open_page(app.address())
    save = page.get_by_role("button", name="Save as a new run")
    expect(save).to_be_disabled()
    open_sheet(page, 5).get_by_role("button", name="Forbid it").click()
    expect(bar(page)).to_contain_text("Prototype 5 was forbidden.")
    page.keyboard.press("Escape")
    field = page.get_by_label("Name")
    assert field.input_value() == "run-edited"
    field.fill("../elsewhere")
    save.click()
    expect(page.locator("#edits").get_by_role("alert")).to_contain_text("name: must be a folder's name")
    field.fill("better")
    save.click()
    folder: Path = small_run.folder.parent / "better"
    try:
        expect(page.locator("#edits .saved")).to_contain_text(f"Saved in {folder}.", timeout=20_000)
        expect(page.locator("#edits .saved")).to_contain_text("of 8 test images rightly")
        assert (folder / "run.toml").exists()
        field.press("Enter")
        expect(page.locator("#edits").get_by_role("alert")).to_contain_text("better")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_edits_are_still_there_when_the_page_is_opened_again(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    open_sheet(page, 3).get_by_role("button", name="Forbid it").click()
    expect(bar(page)).to_contain_text("Prototype 3 was forbidden.")
    page.close()
    page = open_page(app.address())
    expect(bar(page)).to_contain_text("1 edit. Right validation images:")
    assert history(page) == ["Prototype 3 was forbidden"]
    assert "forbidden" in page.locator("#prototype-3").inner_text()


def test_the_filter_of_the_gallery_and_what_was_typed_outlive_an_edit(open_page: Opened, app: Served) -> None:
    page = open_page(app.address())
    page.select_option("#class-picker", label=CLASSES[1])
    sheet = open_sheet(page, 4)
    expect(sheet.locator("#sheet-place")).to_contain_text("(2 of 3)")
    sheet.get_by_role("button", name="It is good, keep it").click()
    expect(bar(page)).to_contain_text("Prototype 4 was kept.")
    sheet.get_by_role("button", name="Next").click()
    expect(sheet.locator("#sheet-title")).to_have_text("Prototype 5")
    page.keyboard.press("Escape")
    expect(page.locator("#class-count")).to_have_text("3 of 6 prototypes")
    page.get_by_label("Name").fill("half a na")
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(bar(page)).to_contain_text("Undone:")
    assert page.get_by_label("Name").input_value() == "half a na"


def test_a_reason_with_markup_is_text(open_page: Opened, app: Served) -> None:
    reason = "<img src=x onerror=alert(1)> \N{RIGHT-TO-LEFT OVERRIDE}\"'&lt; " + "w" * 240
    page = open_page(app.address(), width=390)
    sheet = open_sheet(page, 2)
    sheet.get_by_label("Why prototype 2 is forbidden").fill(reason)
    sheet.get_by_role("button", name="Forbid it").click()
    expect(sheet).to_contain_text("Allow it again")
    page.keyboard.press("Escape")
    expect(page.locator("#prototype-2 bdi")).to_have_text(reason)
    assert reason in history(page)[0]
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_keyboard_alone_forbids_undoes_and_saves(open_page: Opened, app: Served, small_run: PushedRun) -> None:
    page = open_page(app.address())

    def tab_to(what: str) -> None:
        for _ in range(150):
            page.keyboard.press("Tab")
            if page.evaluate("(what) => document.activeElement.matches(what)", what):
                break
        focused = page.locator(":focus")
        assert focused.evaluate("(one, what) => one.matches(what)", what), what
        # Nothing that is fixed lies over it.
        assert focused.evaluate(
            """(one) => {
                const { left, top, width, height } = one.getBoundingClientRect();
                const there = document.elementFromPoint(left + width / 2, top + height / 2);
                return there !== null && (one === there || one.contains(there) || there.contains(one));
            }"""
        ), what

    tab_to("#prototype-1 .name a")
    page.keyboard.press("Enter")
    expect(page.locator("#sheet-title")).to_be_focused()
    tab_to("#sheet input[type=text]")
    page.keyboard.type("a label")
    page.keyboard.press("Enter")
    expect(bar(page)).to_contain_text("Prototype 1 was forbidden: a label.")
    tab_to("#sheet [data-kind=undo]")
    page.keyboard.press("Enter")
    expect(bar(page)).to_contain_text("Undone: Prototype 1 was forbidden: a label.")
    expect(page.locator("[data-kind=redo]")).to_be_focused()
    page.keyboard.press("Enter")
    expect(bar(page)).to_contain_text("Done again: Prototype 1")
    page.keyboard.press("Escape")
    expect(page.locator("#prototype-1 .name a")).to_be_focused()
    tab_to("#save-name")
    page.keyboard.press("Control+A")
    page.keyboard.type("by-keyboard")
    page.keyboard.press("Enter")
    try:
        expect(page.locator("#edits .saved")).to_contain_text("by-keyboard", timeout=20_000)
    finally:
        shutil.rmtree(small_run.folder.parent / "by-keyboard", ignore_errors=True)
