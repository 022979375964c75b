"""A headless Chromium for the tests of the page; without one they are skipped, with the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


VOID = {"meta", "img", "br", "link", "input", "hr"}


def find_chromium() -> str | None:
    """The browser on the path under one of its names, or where Debian puts it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    return "/usr/bin/chromium" if os.access("/usr/bin/chromium", os.X_OK) else None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    path = find_chromium()
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclass
class Opened:
    """Opens pages, and remembers what must not be: errors, and requests that leave the disk."""

    browser: Browser
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __call__(
        self, path: Path, *, fragment: str = "", width: int = 1280, scheme: str = "light", has_script: bool = True
    ) -> Page:
        context = self.browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=has_script
        )
        page = context.new_page()
        page.set_default_timeout(5000)
        page.set_default_navigation_timeout(30_000)  # a busy machine starts slowly
        page.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfailed", lambda request: self.faults.append(f"failed: {request.url}"))
        page.goto(path.as_uri() + fragment)
        return page


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opened]:
    opened = Opened(browser)
    yield opened
    for context in browser.contexts:
        context.close()
    assert opened.faults == []
    strangers = [url for url in opened.requests if not url.startswith(("file:", "data:"))]
    assert strangers == []


class Drawn(HTMLParser):
    """What was drawn: checks that its tags are balanced, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def pictures(self) -> list[str]:
        """The addresses of the pictures, one for each place; each says what it shows."""
        images = self.all("img")
        assert all(image["alt"] and image["width"] == "32" and image["height"] == "24" for image in images)
        return [str(image["src"]) for image in images]


@pytest.fixture
def draw(open_page: Opened, tmp_path: Path) -> Callable[[str], Drawn]:
    def drawn(html: str) -> Drawn:
        path = tmp_path / "drawn.html"
        path.write_text(html, encoding="utf-8")
        page = open_page(path)
        page.evaluate("document.querySelectorAll('noscript, dialog').forEach((one) => one.remove())")
        return Drawn(page.content())

    return drawn
