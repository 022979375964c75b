"""The facts on a page, as a reader meets them in Chromium: words and numbers, pictures, and boxes on them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from tests.report.browser.conftest import find_chromium

# For the page itself, and for the sheet of each prototype: all text, also what is folded away; every picture by its
# bytes or its file; and every box in pixels of the picture under it.
_FACTS = """(root) => {
  const address = (one) => one.tagName === 'use'
    ? document.querySelector(one.getAttribute('href')).getAttribute('href') : one.getAttribute('src');
  const facts = { words: [], pictures: [], boxes: [] };
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode;
    const hidden = text.parentElement.closest('script, style, noscript, #sheet');
    if (!hidden || hidden === root) facts.words.push(...text.textContent.split(/\\s+/).filter(Boolean));
  }
  for (const one of root.querySelectorAll('img, svg use')) {
    if (one.closest('#sheet') && root.id !== 'sheet') continue;
    facts.pictures.push(address(one));
    const size = one.tagName === 'use' ? one.closest('svg') : one;
    const [wide, high] = ['width', 'height'].map((side) => Number(size.getAttribute(side)));
    for (const box of one.closest('.seen')?.querySelectorAll(':scope > span') ?? []) {
      const share = (side) => parseFloat(box.style[side]) / 100;
      const place = [share('top') * high, share('left') * wide, share('height') * high, share('width') * wide];
      facts.boxes.push([box.className, address(one), ...place.map(Math.round)]);
    }
  }
  for (const one of root.querySelectorAll('[aria-label], [alt]'))
    if (!one.closest('#sheet') || root.id === 'sheet')
      facts.words.push(...(one.getAttribute('aria-label') ?? one.getAttribute('alt')).split(/\\s+/));
  return facts;
}"""


def facts_of(paths: list[Path]) -> dict[str, str]:
    """The facts of each page, and of each prototype's sheet on it, one a line."""
    from playwright.sync_api import sync_playwright

    answers = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        for path in paths:
            page.goto(path.as_uri())
            answers[f"{path} page"] = _lines(page.evaluate(f"({_FACTS})(document.body)"), path)
            numbers = page.evaluate("[...document.querySelectorAll('.card')].map((one) => one.id)")
            for number in numbers:
                page.evaluate(f"location.hash = '#{number}'")
                page.wait_for_function(
                    f"document.getElementById('sheet-title').textContent === 'Prototype {number[10:]}'"
                )
                answers[f"{path} {number}"] = _lines(
                    page.evaluate(f"({_FACTS})(document.getElementById('sheet'))"), path
                )
        browser.close()
    return answers


def _lines(facts: dict[str, Any], path: Path) -> str:
    lines = {f"word {word}" for word in facts["words"]}
    lines |= {f"picture {_hash(address, path)}" for address in facts["pictures"]}
    lines |= {f"{kind} {numbers} on {_hash(address, path)}" for kind, address, *numbers in facts["boxes"]}
    return "\n".join(sorted(lines))


def _hash(address: str, page: Path) -> str:
    """Of the bytes of a picture, which is inside the page or beside it."""
    is_inside = address.startswith("data:")
    content = base64.b64decode(address.partition(",")[2]) if is_inside else (page.parent / address).read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]
