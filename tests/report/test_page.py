"""A page as a file: its JSON, its summary without a script, and the pictures beside it."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protokern.report import page as page_module
from protokern.report.page import render_explanation, render_report, write_explanation, write_report
from protokern.results.explanations import Explanation
from protokern.results.run import Report
from tests.report.conftest import CLASSES, FILE_NAME


def read_page(html: str) -> dict[str, Any]:
    """What the page's script reads, found as a browser finds it: up to the first end of a script."""
    start = html.index('<script type="application/json" id="page">')
    table: dict[str, Any] = json.loads(html[html.index(">", start) + 1 : html.index("</script", start)])
    return table


def test_equal_pictures_are_stored_once(report_data: Report) -> None:
    table = read_page(render_report(report_data))
    pixels = set()
    for data in table["pictures"]:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=("JPEG",)) as decoded:
            assert decoded.size == (32, 24)
            pixels.add(np.asarray(decoded).tobytes())
    # Two of each prototype with a source and of each match, the explained image, and two of the neighbours of prototype
    # 0: the others are its own image and heat map.
    assert len(pixels) == len(table["pictures"]) == 5 * 2 + 2 * 2 + 1 + 2


def test_user_text_cannot_leave_its_place(report_data: Report) -> None:
    """Nothing that a user named ends the script or opens an element, in the JSON and in the summary."""
    for html in (render_report(report_data), render_explanation(report_data.explanations[0], "<b>run</b>")):
        assert html.count("<script") == 2
        assert html.count("</script") == 2
        assert "<img" not in html
        assert "<b>" not in html
        summary = html[html.index("<noscript>") : html.index("</noscript>")]
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in summary
        assert FILE_NAME in json.dumps(read_page(html), ensure_ascii=False).replace('\\"', '"')


def test_the_summary_says_what_a_reader_without_javascript_needs(report_data: Report) -> None:
    html = render_report(report_data)
    summary = html[html.index("<noscript>") : html.index("</noscript>")]
    text = " ".join(re.sub(r"<[^>]*>", " ", summary).split())
    assert "Test accuracy 80.0%, 12 of 15 images" in text
    assert "4.00 \N{MULTIPLICATION SIGN} 2.00 = 8.00 points" in text
    assert "A note with &lt;i&gt;markup&lt;/i&gt; 松鸦." in text
    assert "because of colour (hue)" in text
    assert text.count("Prototype ") == 6
    assert f"total for {CLASSES[2]}" not in text


def test_pictures_beside_the_page_are_files(report_data: Report, tmp_path: Path) -> None:
    path = tmp_path / "report" / "index.html"
    write_report(report_data, path, pictures="beside")
    html = path.read_text(encoding="utf-8")
    written = {file.name for file in (path.parent / "pictures").iterdir()}
    assert set(read_page(html)["pictures"]) == written
    assert all(re.fullmatch(r"[0-9a-f]{24}\.jpg", name) for name in written)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report"]
    assert not re.search(r"[A-Za-z0-9+/=]{1000}", html)
    write_report(report_data, path)
    assert not (path.parent / "pictures").exists()


def test_pages_are_written_at_once_and_leave_nothing_else(
    report_data: Report, explained: Explanation, tmp_path: Path
) -> None:
    write_report(report_data, tmp_path / "report" / "index.html")
    write_explanation(explained, "run", tmp_path / "one.html")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["index.html", "one.html", "report"]
    assert (tmp_path / "report" / "index.html").read_text(encoding="utf-8") == render_report(report_data)


def test_large_pages_have_their_pictures_beside_them(
    report_data: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "MOST_INSIDE", 1000)
    write_report(report_data, tmp_path / "index.html")
    assert (tmp_path / "pictures").exists()
    write_report(report_data, tmp_path / "index.html", pictures="inside")
    assert not (tmp_path / "pictures").exists()
    monkeypatch.setattr(page_module, "LARGEST_PAGE", 1000)
    with pytest.raises(ValueError, match="pictures: must be 'auto' or 'beside' for 0 MB of pictures, for one page"):
        write_report(report_data, tmp_path / "index.html", pictures="inside")
