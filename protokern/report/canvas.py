"""Figures by matplotlib with positions in inches, and their files: text stays text, margins are narrow."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

import numpy as np

from protokern.report.fonts import NO_FONT, drawable, find_families
from protokern.results.places import Picture, PixelBox
from protokern.storage.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, GAP, MARGIN = 1.55, 0.08, 0.3  # inches: side of a picture, gap between two, left margin
INK, MUTED, ACCENT, AGAINST = "#1f2427", "#5d666b", "#0d6b66", "#a8432a"
_FRAME = "#ffd23f"
_PAD = 0.12  # inches of white around everything

# Text in PDF as TrueType, which publishers accept, and in SVG as text; files do not depend on the date.
_SETTINGS: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "protokern"}
_UNDATED: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}


class Canvas:
    """A figure with positions in inches from its upper left corner.

    Args:
        width: inches.
        height: inches.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
        self.width, self.height = width, height
        self.lacks_letters = False  # whether boxes are drawn for some letters

    def write(
        self,
        left: float,
        middle: float,
        text: str,
        *,
        size: float,
        color: str = INK,
        align: str = "left",
        family: str = "sans-serif",
        weight: str = "normal",
        style: str = "normal",
    ) -> None:
        """Write one line of plain text in any script; dollar signs and backslashes have no special meaning."""
        text = drawable(text)
        families = find_families(text, family, weight, style)
        self.lacks_letters |= not families.is_complete
        self.figure.text(
            left / self.width,
            1 - middle / self.height,
            text,
            fontsize=size,
            color=color,
            ha=align,
            va="center",
            family=family if len(families.names) == 1 else list(families.names),
            weight=weight,
            style=style,
            parse_math=False,
        )

    def show(
        self,
        picture: Picture | None,
        left: float,
        top: float,
        box: PixelBox | None = None,
        *,
        cell: PixelBox | None = None,
        side: float = SIDE,
    ) -> None:
        """Draw a picture, if any, into a square, its proportions kept; with a frame along `box` and `cell` marked."""
        from matplotlib.patches import Rectangle

        if picture is None:
            return
        position = (left / self.width, 1 - (top + side) / self.height, side / self.width, side / self.height)
        axes = self.figure.add_axes(position)
        rows, columns = picture.shape[:2]
        axes.imshow(np.asarray(picture), interpolation="lanczos", extent=(0, columns, rows, 0))
        axes.set_axis_off()
        axes.set_anchor("SW")  # close to the words below it if it does not fill the square
        thickness = min(1.0, side / SIDE)
        if cell is not None:
            y0, x0, y1, x1 = cell
            for line, color in ((1.3 * thickness, "black"), (0.6 * thickness, _FRAME)):
                axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, linewidth=line, edgecolor=color))
        if box is not None:
            y0, x0, y1, x1 = box
            inset = 0.008 * thickness * SIDE / side * max(rows, columns)  # half a line: the border cuts no frame
            corner, size = (x0 + inset, y0 + inset), (x1 - x0 - 2 * inset, y1 - y0 - 2 * inset)
            for line, color in ((3.6 * thickness, "black"), (1.9 * thickness, _FRAME)):
                axes.add_patch(Rectangle(corner, *size, fill=False, linewidth=line, edgecolor=color, joinstyle="miter"))


def save(canvas: Canvas, path: Path) -> None:
    """Write a figure in one step, cut to what is drawn; the suffix (.png, .pdf, .svg) gives the format."""
    with letters_told(canvas.lacks_letters):
        save_figure(canvas.figure, path, bbox_inches="tight", pad_inches=_PAD)


def save_figure(figure: Figure, path: Path, *, bbox_inches: str | None = None, pad_inches: float = 0.0) -> None:
    """Write a matplotlib figure in one step: text stays text, there is no date, an older file stays complete."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(_SETTINGS):
        figure.savefig(
            file,
            format=path.suffix[1:],
            bbox_inches=bbox_inches,
            pad_inches=pad_inches,
            metadata=_UNDATED[path.suffix],
        )
    replace_file(path, file.getvalue())


def save_pages(pages: Iterable[Canvas], path: Path) -> list[Path]:
    """Write figures as the pages of one PDF, or as files NAME.png, NAME-2.png and so on.

    Args:
        pages: drawn one after the other, so that only one is in memory at a time.
        path: of the first file; its suffix gives the format.

    Returns:
        The paths of the files.
    """
    if path.suffix == ".pdf":
        _save_pdf(pages, path)
        return [path]
    files = []
    for number, page in enumerate(pages, start=1):
        files.append(path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}"))
        save(page, files[-1])
    return files


def _save_pdf(pages: Iterable[Canvas], path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_pdf import PdfPages

    content = io.BytesIO()
    with rc_context(_SETTINGS), PdfPages(content, metadata=_UNDATED[".pdf"]) as file:
        for page in pages:
            with letters_told(page.lacks_letters):
                page.figure.savefig(file, format="pdf", bbox_inches="tight", pad_inches=_PAD)
    replace_file(path, content.getvalue())


@contextmanager
def letters_told(are_lacking: bool) -> Iterator[None]:
    """Warn once if boxes are drawn for letters, instead of matplotlib's warning for every letter."""
    if not are_lacking:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
    warnings.warn(NO_FONT, stacklevel=3)


def shortened(text: str, length: int) -> str:
    """Shorten a text to the width of `length` Latin letters; Chinese, Japanese and Korean letters are twice as wide."""
    widths = [1 + (east_asian_width(letter) in "FW") for letter in text]
    if sum(widths) <= length:
        return text
    room, kept = length - 1, 0
    while widths[kept] <= room:
        room, kept = room - widths[kept], kept + 1
    return text[:kept] + "…"


def signed(value: float) -> str:
    """A number with two decimals and a real minus sign."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
