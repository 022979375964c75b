"""Fonts for letters that matplotlib's own fonts lack, such as Chinese, Japanese, Korean and emoji.

Only fonts of this machine are used. A letter that no font has is drawn as a box, and a warning says so.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

NO_FONT = (
    "figures: names have letters that no font of this machine has; boxes stand for them. "
    "Install a font of their script, such as fonts-noto-cjk for Chinese, Japanese and Korean."
)
# Fonts that have the same kind of placeholder glyph for every letter.
_EMPTY = ("last resort", "lastresort", "adobe blank", "unicode bmp fallback")
# Control and format characters, marks that choose a form of the letter before them, and non-characters.
_NOT_DRAWN = ("Cc", "Cf", "Cn", "Cs", "Zs", "Zl", "Zp")
_UNREADABLE = (RuntimeError, OSError, ValueError, NotImplementedError)  # errors of FreeType for unusual files


class Families(NamedTuple):
    """Names of font families, in the order in which a letter is looked up; and whether they have all letters."""

    names: tuple[str, ...]
    is_complete: bool


def drawable(text: str) -> str:
    """The text in one line, with composed accents, and with a replacement sign for characters that are no letters."""
    shown = (
        " " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else "\ufffd" if _is_no_text(letter) else letter
        for letter in unicodedata.normalize("NFC", text)
    )
    return "".join(shown)


def _is_no_text(letter: str) -> bool:
    return unicodedata.category(letter) == "Cs"


def find_families(text: str, family: str, weight: str = "normal", style: str = "normal") -> Families:
    """The families to draw a text with: `family`, and other families of this machine for the letters that it lacks.

    Args:
        text: of any script.
        family: such as "serif", or the name of a font.
        weight, style: as matplotlib takes them.
    """
    if text.isascii():
        return Families((family,), is_complete=True)
    letters = {letter for letter in text if _is_drawn(letter)}
    lacking = letters - _letters_in(_file_of(family, weight, style), letters)
    if not lacking:
        return Families((family,), is_complete=True)
    others, rest = _choose(frozenset(lacking), is_serif=family == "serif")
    return Families((family, *others), is_complete=not rest)


def _is_drawn(letter: str) -> bool:
    is_selector = "\ufe00" <= letter <= "\ufe0f"
    return not (is_selector or unicodedata.category(letter) in _NOT_DRAWN)


@cache
def _choose(lacking: frozenset[str], *, is_serif: bool) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families that together have as many of these letters as possible, and the letters that no family has."""
    names: list[str] = []
    rest, region = set(lacking), _region(lacking)
    for families in (_known_families, _families_of_now):
        files = families()
        while rest:
            has = {name: len(_letters_in(file, rest)) for name, file in files.items()}
            if not any(has.values()):
                break
            best = min(
                has, key=lambda name: (-has[name], ("Serif" in name) != is_serif, not name.endswith(region), name)
            )
            names.append(best)
            rest -= _letters_in(files[best], rest)
    return tuple(names), frozenset(rest)


def _region(letters: Iterable[str]) -> str:
    """The name endings of fonts whose Chinese characters have the form that these letters suggest."""
    if any("\u3040" <= letter <= "\u30ff" for letter in letters):
        return "JP"
    return "KR" if any("\uac00" <= letter <= "\ud7a3" for letter in letters) else "SC"


def _letters_in(file: str, letters: Iterable[str]) -> set[str]:
    """The letters that a font can draw."""
    return {letter for letter in letters if _can_draw(file, letter)}


@cache
def _can_draw(file: str, letter: str) -> bool:
    """Whether a font has an outline for a letter; fonts of coloured pictures have no outlines."""
    font = _open(file)
    if font is None or not font.get_char_index(ord(letter)):
        return False
    try:
        font.load_char(ord(letter))
        return len(font.get_path()[0]) > 0
    except _UNREADABLE:
        return False


@cache
def _open(file: str) -> FT2Font | None:
    from matplotlib.ft2font import FT2Font

    try:
        return FT2Font(file)
    except _UNREADABLE:
        return None


@cache
def _file_of(family: str, weight: str, style: str) -> str:
    from matplotlib.font_manager import FontProperties, findfont

    properties = FontProperties(family=family, weight=weight)
    properties.set_style(style)  # type: ignore[arg-type] # a name that matplotlib checks
    return str(findfont(properties))


def _known_families() -> dict[str, str]:
    """A file of every family that matplotlib knows; the upright one of normal weight if there is one."""
    from matplotlib.font_manager import fontManager

    entries = [entry for entry in fontManager.ttflist if not entry.name.lower().startswith(_EMPTY)]
    entries.sort(key=lambda entry: (entry.style != "normal", entry.weight not in (400, "normal", "regular")))
    return {entry.name: entry.fname for entry in reversed(entries)}


def _families_of_now() -> dict[str, str]:
    """The same, including fonts that were installed after matplotlib made its list."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {entry.fname for entry in fontManager.ttflist}
    _add_fonts(sorted({*findSystemFonts()} - known))
    return _known_families()


def _add_fonts(files: Sequence[str]) -> None:
    from matplotlib.font_manager import fontManager

    for file in files:
        try:
            fontManager.addfont(file)
        except _UNREADABLE:
            continue
