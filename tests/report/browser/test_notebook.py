"""Several pages in one notebook: each in its frame, drawn by the same script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from protokern.explain.shown import Explanation, Report
from protokern.nets import nearest_examples, wrap
from protokern.nn import PrototypeLayer
from protokern.results import explanations, run
from tests.report.conftest import CLASSES

if TYPE_CHECKING:
    from playwright.sync_api import Page


# What VS Code allows the outputs of a notebook, as far as it matters here.
VS_CODE = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' https:; style-src 'unsafe-inline'; "
    "img-src https: http: data:; font-src https: data:; child-src https: data:"
)


def shown(plain: explanations.Explanation | run.Report) -> str:
    kind = Report if isinstance(plain, run.Report) else Explanation
    return kind(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})._repr_html_()


@pytest.mark.parametrize("policy", ["", VS_CODE], ids=["jupyter", "vs-code"])
def test_pages_of_one_notebook_do_not_disturb_each_other(
    open_page: Callable[..., Page], report_data: run.Report, tmp_path: Path, policy: str
) -> None:
    outputs = [shown(report_data), shown(report_data.explanations[0]), shown(report_data)]
    notebook = tmp_path / "notebook.html"
    head = f'<!doctype html><title>notebook</title><meta http-equiv="Content-Security-Policy" content="{policy}">'
    notebook.write_text(head + "<hr>".join(outputs), encoding="utf-8")
    page = open_page(notebook)
    first, second, third = page.frames[1:]
    second.wait_for_selector(".explained")
    assert CLASSES[0] in second.locator("h1").inner_text()
    for frame in (first, third):
        frame.wait_for_selector(".card")
        assert frame.locator(".card").count() == 6
        assert frame.evaluate("[...document.images].every((one) => one.src.startsWith('data:image/jpeg'))")
    first.click("#prototype-1 .name a")
    assert first.locator("#sheet-title").text_content() == "Prototype 1"
    assert third.locator("#sheet-title").text_content() == ""
    first.press("#sheet", "ArrowRight")
    assert first.locator("#sheet-title").text_content() == "Prototype 2"
    first.click("[data-close]")
    first.wait_for_function("!document.getElementById('sheet').open")
    third.click("nav a[href='#run']")
    third.wait_for_function("document.getElementById('run').getBoundingClientRect().top < innerHeight")
    assert third.locator(".card").count() == 6  # the page is still there
    assert page.title() == "notebook"
    assert page.url == notebook.as_uri()


def test_contrasts_galleries_and_nearest_examples_draw_themselves(
    open_page: Callable[..., Page], tmp_path: Path
) -> None:
    net = wrap((nn.Conv2d(3, 4, 8, stride=8), PrototypeLayer(5, 4), nn.Linear(5, 2)), CLASSES[:2], image_size=32)
    image = torch.rand(3, 32, 32)
    pages = {
        "contrast": net.explain(image).contrast(0, 1),
        "gallery": net.prototypes,
        "nearest": nearest_examples(net, torch.rand(3, 3, 32, 32), image, k=1),
    }
    for name, one in pages.items():
        one.save(tmp_path / f"{name}.html")
    contrast, gallery, nearest = (open_page(tmp_path / f"{name}.html") for name in pages)
    assert contrast.locator("h1").inner_text() == f"Why {CLASSES[0]} and not {CLASSES[1]}?"
    assert contrast.locator(".match").count() == 5
    assert gallery.locator(".card").count() == 5
    assert gallery.locator("main > section").count() == 1
    assert nearest.locator("h1").inner_text() == "What else looks like this to the net?"
    assert nearest.locator(".match").count() == 8
    assert nearest.locator("table").count() == 0
