"""Letters of any script in figures. The fonts are made up here, so that nothing depends on those of a machine."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from protokern.cli.process import show_warnings_once
from protokern.report import fonts
from protokern.report.canvas import Canvas, save, save_pages, shortened
from protokern.report.fonts import NO_FONT, drawable, find_families
from protokern.report.importance_figure import write_importance_figure

HAN, KANA, EMOJI = "\u9ce5", "\u30c8", "\U0001f426"


def make_font(path: Path, family: str, letters: str, *, is_empty: bool = False) -> Path:
    """A font whose letters are all the same filled square, or nothing at all."""
    names = {ord(letter): f"letter{number}" for number, letter in enumerate(letters)}
    square, nothing = TTGlyphPen(None), TTGlyphPen(None)
    for step, point in enumerate(((0, 0), (0, 900), (900, 900), (900, 0))):
        (square.lineTo if step else square.moveTo)(point)
    square.closePath()
    glyph = (nothing if is_empty else square).glyph()
    order = [".notdef", *names.values()]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(order)
    font.setupCharacterMap(names)
    font.setupGlyf({".notdef": nothing.glyph(), **dict.fromkeys(names.values(), glyph)})
    font.setupHorizontalMetrics(dict.fromkeys(order, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": family, "styleName": "Regular", "psName": family.replace(" ", "") + "-Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Gives the machine fonts, besides matplotlib's own; `is_new`: after matplotlib made its list."""
    manager = font_manager.fontManager
    own = [entry for entry in manager.ttflist if entry.name.startswith(("DejaVu", "Last Resort"))]
    files: list[str] = []
    monkeypatch.setattr(manager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)

    def give(family: str, letters: str, *, is_new: bool = False, is_empty: bool = False) -> None:
        files.append(str(make_font(tmp_path / f"{family}.ttf", family, letters, is_empty=is_empty)))
        if not is_new:
            manager.addfont(files[-1])

    forget = (fonts._choose, fonts._can_draw, fonts._open, fonts._file_of)
    for one in forget:
        one.cache_clear()
    yield give
    for one in forget:
        one.cache_clear()


def ink(text: str, tmp_path: Path) -> int:
    """How many dark pixels a text in a figure has."""
    canvas = Canvas(3, 1)
    canvas.write(0.2, 0.5, text, size=20, family="serif", weight="bold")
    save(canvas, tmp_path / "ink.png")
    with Image.open(tmp_path / "ink.png") as image:
        return int((np.asarray(image.convert("L")) < 100).sum())


def test_a_letter_is_drawn_with_the_font_that_has_it(machine, tmp_path: Path) -> None:
    machine("Made Up", HAN + KANA)
    assert find_families(f"a{HAN}", "serif") == (("serif", "Made Up"), True)
    square = (20 / 72 * 160 * 0.9) ** 2  # points to pixels, of the glyph's side
    assert ink(HAN, tmp_path) == pytest.approx(square, rel=0.1)
    assert ink(HAN + KANA, tmp_path) == pytest.approx(2 * square, rel=0.1)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_all_formats_have_the_letters(machine, tmp_path: Path, suffix: str) -> None:
    machine("Made Up", HAN)
    canvas = Canvas(3, 1)
    canvas.write(0.2, 0.5, f"Why {HAN}?", size=20)
    save(canvas, tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    if suffix == "svg":
        assert f">Why {HAN}?</text>".encode() in content
        assert b"'Made Up'" in content
    if suffix == "pdf":
        assert b"+MadeUp-Regular" in content


def test_as_many_fonts_as_are_needed_and_no_more(machine) -> None:
    machine("One", HAN)
    machine("Both", HAN + KANA)
    machine("Bird", EMOJI)
    assert find_families(HAN + KANA + EMOJI, "serif") == (("serif", "Both", "Bird"), True)
    assert find_families("\u00e9t\u00e9", "serif") == (("serif",), True)
    assert find_families("bird", "serif") == (("serif",), True)


def test_the_form_of_chinese_characters_is_that_of_the_language(machine) -> None:
    for region in ("HK", "JP", "KR", "SC"):
        machine(f"Noto Sans CJK {region}", HAN + KANA + "\ud55c")
    machine("Noto Serif CJK SC", HAN)
    for text, region in ((HAN, "SC"), (HAN + KANA, "JP"), (HAN + "\ud55c", "KR")):
        assert find_families(text, "sans-serif").names[1] == f"Noto Sans CJK {region}"
    assert find_families(HAN, "serif").names[1] == "Noto Serif CJK SC"


def test_a_font_that_was_installed_after_matplotlib_looked_is_found(machine) -> None:
    machine("New", HAN, is_new=True)
    assert find_families(HAN, "serif") == (("serif", "New"), True)


def test_fonts_of_pictures_and_files_that_are_no_fonts_are_passed_over(machine, tmp_path: Path) -> None:
    machine("Empty", EMOJI, is_empty=True)
    machine("Broken", EMOJI, is_new=True)
    (tmp_path / "Broken.ttf").write_bytes(b"no font")
    assert find_families(EMOJI, "serif") == (("serif",), False)


def test_a_letter_in_no_font_is_a_box_and_one_warning(machine, tmp_path: Path) -> None:
    def pages() -> Iterator[Canvas]:
        for letter in (HAN, KANA, EMOJI):
            canvas = Canvas(3, 1)
            canvas.write(0.2, 0.5, letter, size=20)
            yield canvas

    with warnings.catch_warnings(record=True) as caught, io.StringIO() as text:
        warnings.simplefilter("always")
        show = show_warnings_once()
        save_pages(pages(), tmp_path / "a.png")
        save_pages(pages(), tmp_path / "a.pdf")
        write_importance_figure([HAN], np.zeros((1, 2)), np.zeros((1, 2)), tmp_path / "b.png")
        for one in caught:
            show(one.message, one.category, one.filename, one.lineno, file=text)
        assert text.getvalue() == f"warning: {NO_FONT}\n"
    assert ink("a", tmp_path) > 0


@pytest.mark.parametrize("text", ["a\u200db", "\u2764\ufe0f", "a\u3000b", "\u202ebird"])
def test_letters_that_are_not_drawn_need_no_font(machine, text: str) -> None:
    assert find_families(text, "sans-serif").is_complete


def test_what_is_no_text_is_drawn_as_a_sign(machine, tmp_path: Path) -> None:
    assert drawable("\udce9t\udce9") == "\ufffdt\ufffd"
    assert drawable("a\nb\x1b[31m\u2028") == "a b [31m "
    assert drawable("e\u0301") == "\u00e9"
    assert ink("\udce9t\udce9\n", tmp_path) > 0


def test_wide_letters_are_shortened_to_the_same_width() -> None:
    assert shortened("a" * 10, 10) == "a" * 10
    assert shortened("a" * 11, 10) == "a" * 9 + "…"
    assert shortened(HAN * 5, 10) == HAN * 5
    assert shortened(HAN * 6, 10) == HAN * 4 + "…"
    assert shortened("a" + HAN * 6, 10) == "a" + HAN * 4 + "…"
