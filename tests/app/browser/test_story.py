"""A person finds a planted shortcut on the page and removes it: the sticker on every training image of one class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from protokern.evaluate import Evaluation, evaluate
from protokern.inputs.loaders import ordered_loader
from protokern.nn import evaluating
from protokern.runs.data import open_data
from protokern.runs.open import open_run
from tests.app.browser.conftest import Opened, serve
from tests.app.stickers import (
    Stickered,
    on_sticker,
    train_on,
    train_on_photographs,
    write_birds,
    write_stickered_birds,
    write_stickered_copy,
)

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

EDITS = 3
PHOTOGRAPHS = (
    "PROTOKERN_PHOTOGRAPHS"  # a folder with train/ and test/, such as Oxford-IIIT Pet's; its second class is taken
)


def evaluated(folder: Path) -> Evaluation:
    """The answers to the test images, which have no stickers."""
    run = open_run(folder)
    batches = ordered_loader(open_data(run.config, run=folder).test, 64, workers=0)
    with evaluating(run.model):
        return evaluate(run.model, batches, run.model.device, num_classes=len(run.classes))


def training_images(folder: Path) -> list[str]:
    """Their names, without those that were held out for validation."""
    images = open_data(open_run(folder).config, run=folder).push
    return [images.sample_name(index) for index in range(len(images))]


def prototypes_on_stickers(folder: Path, birds: Stickered) -> list[int]:
    """What a person sees at a glance in the pictures of the prototypes."""
    push = open_run(folder).push
    assert push is not None
    return on_sticker(push, training_images(folder), birds.boxes)


def put_wing_in_place(page: Page, number: int, image: str, wing: tuple[float, float]) -> None:
    """Choose another patch for a prototype: the wing in a training image."""
    page.click(f"#prototype-{number} .name a")
    page.locator("#sheet").get_by_role("button", name="Choose another patch for it").click()
    images = page.locator("#images")
    expect(images.locator(".file").first).to_contain_text("train/")
    look = images.locator(f'.image-button[aria-label*="{image}"]')
    more = images.get_by_role("button", name="Show more")
    while not look.count():
        more.click()
        page.wait_for_timeout(100)
    look.click()
    shown = page.locator("#image-dialog")
    patches = shown.locator(".patches")
    patches.scroll_into_view_if_needed()
    box = patches.bounding_box()
    assert box is not None
    patches.click(position={"x": wing[0] * box["width"], "y": wing[1] * box["height"]})
    assert shown.get_by_label("Prototype that is replaced").first.input_value() == str(number)
    shown.get_by_role("button", name="Put it there").first.click()
    expect(page.locator("#bar-text")).to_contain_text(f"Prototype {number} became a patch of {image}", timeout=30_000)
    page.keyboard.press("Escape")


@pytest.mark.slow
def test_three_edits_on_the_page_bring_the_accuracy_back(open_page: Opened, tmp_path: Path) -> None:
    clean = write_birds(tmp_path / "birds")
    stickered = write_stickered_birds(tmp_path / "stickered", clean)
    without = evaluated(train_on(clean.folder, tmp_path / "without"))
    folder = train_on(stickered.folder, tmp_path / "birds-1")
    fooled = evaluated(folder)
    assert fooled.accuracy < without.accuracy - 0.1

    served = serve([folder])
    try:
        page = open_page(served.address())
        page.set_default_timeout(30_000)
        expect(page.locator("#bar-text")).to_contain_text("Right validation images: 100.0%")  # nothing seems wrong
        images = page.locator("#images")
        images.get_by_label("Of the").select_option("test")
        images.get_by_label("Class").select_option(stickered.class_name)
        images.get_by_label("Answers").select_option("wrong")
        expect(images.locator("output")).to_contain_text(f"50 of 200 images; of all, {fooled.accuracy:.1%}")

        found = prototypes_on_stickers(folder, stickered)
        assert found
        wings = [(name, clean.wings[name]) for name in training_images(folder) if name in clean.wings]
        for number, (name, wing) in zip(found[:EDITS], wings, strict=False):
            put_wing_in_place(page, number, name, wing)
        page.get_by_label("Name").fill("mended")
        page.get_by_role("button", name="Save as a new run").click()
        expect(page.locator(".saved")).to_contain_text("Saved in")
        page.close()  # before the server, which it would miss
    finally:
        served.stop()

    mended = evaluated(tmp_path / "mended")
    assert mended.accuracy >= without.accuracy - 0.02
    assert not prototypes_on_stickers(tmp_path / "mended", stickered)


@pytest.mark.slow
@pytest.mark.skipif(PHOTOGRAPHS not in os.environ, reason=f"{PHOTOGRAPHS} names no folder of photographs")
def test_three_edits_on_the_page_mend_a_net_of_photographs(open_page: Opened, tmp_path: Path) -> None:
    source = Path(os.environ[PHOTOGRAPHS])
    class_name = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())[1]
    stickered = write_stickered_copy(source, tmp_path / "stickered", class_name)
    without = evaluated(train_on_photographs(source, tmp_path / "without"))
    folder = train_on_photographs(stickered.folder, tmp_path / "photos-1")
    fooled = evaluated(folder)
    served = serve([folder])
    try:
        page = open_page(served.address())
        page.set_default_timeout(30_000)
        found = prototypes_on_stickers(folder, stickered)
        for number in found[:EDITS]:
            page.click(f"#prototype-{number} .name a")
            sheet = page.locator("#sheet")
            sheet.get_by_label(f"Why prototype {number} is forbidden").fill("a sticker")
            sheet.get_by_role("button", name="Forbid it").click()
            expect(page.locator("#bar-text")).to_contain_text(
                f"Prototype {number} was forbidden: a sticker", timeout=30_000
            )
            page.keyboard.press("Escape")
        page.get_by_label("Name").fill("mended")
        page.get_by_role("button", name="Save as a new run").click()
        expect(page.locator(".saved")).to_contain_text("Saved in", timeout=30_000)
        page.close()
    finally:
        served.stop()
    mended = evaluated(tmp_path / "mended")
    said = f"without {without.accuracy:.1%}, fooled {fooled.accuracy:.1%}, mended {mended.accuracy:.1%} by {found}"
    assert fooled.accuracy < without.accuracy - 0.05, said
    assert mended.accuracy >= without.accuracy - 0.02, said
