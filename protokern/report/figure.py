"""One explanation as a figure for a paper or a README: this looks like that, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from protokern.report.data import ClassPoints, ExplainedImage, Match, Picture, PixelBox
from protokern.report.words import name_foreign, name_match

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_MATCHES = 3
_TIMES = "\N{MULTIPLICATION SIGN}"

# Inches. Four pictures in a row, words between the pairs, the sum at the right.
_SIDE, _GAP, _MARGIN, _WORDS, _SUM, _HEAD, _FOOT, _ROW_GAP = 1.55, 0.08, 0.3, 0.95, 2.05, 0.95, 0.95, 0.34
_SUM_GAP = 0.3
_CAPTION = 54  # letters below a pair of pictures
_INK, _MUTED, _ACCENT, _AGAINST, _FRAME = "#1f2427", "#5d666b", "#0d6b66", "#a8432a", "#ffd23f"


def write_figure(item: ExplainedImage, path: Path, *, max_matches: int = FIGURE_MATCHES) -> None:
    """Draw why an image got its class: a row for each of the first matches, and how the points add up.

    Args:
        item: the explained image; its first class is drawn.
        path: where the figure goes; the suffix (.png, .pdf, .svg) says in which format.
        max_matches: rows, at least 1.

    Raises:
        ValueError: `max_matches` is below 1.
    """
    if max_matches < 1:
        raise ValueError(f"max_matches: must be at least 1; got {max_matches}.")
    from matplotlib.figure import Figure

    one = item.classes[0]
    matches = one.matches[:max_matches]
    width = 2 * _MARGIN + 4 * _SIDE + 2 * _GAP + _WORDS + _SUM_GAP + _SUM
    height = _HEAD + len(matches) * (_SIDE + _ROW_GAP) + _FOOT
    figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
    canvas = _Canvas(figure, width, height)
    canvas.write(_MARGIN, 0.38, f"Why {one.class_name}?", size=17, family="serif", weight="bold")
    canvas.write(_MARGIN, 0.68, _subtitle(item), size=9.5, color=_MUTED)
    for row, match in enumerate(matches):
        _draw_match(canvas, match, one, top=_HEAD + row * (_SIDE + _ROW_GAP))
    _draw_total(canvas, one, matches)
    figure.savefig(path)


class _Canvas:
    """A figure addressed in inches from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def write(
        self,
        left: float,
        middle: float,
        text: str,
        *,
        size: float,
        color: str = _INK,
        align: str = "left",
        family: str = "sans-serif",
        weight: str = "normal",
        style: str = "normal",
    ) -> None:
        """One line of plain text; dollar signs and backslashes are themselves."""
        self.figure.text(
            left / self.width,
            1 - middle / self.height,
            text,
            fontsize=size,
            color=color,
            ha=align,
            va="center",
            family=family,
            weight=weight,
            style=style,
            parse_math=False,
        )

    def show(self, picture: Picture | None, left: float, top: float, box: PixelBox | None = None) -> None:
        """A picture, if there is one, in a square of one side, its proportions kept; with a frame along `box`."""
        from matplotlib.patches import Rectangle

        if picture is None:
            return
        position = (left / self.width, 1 - (top + _SIDE) / self.height, _SIDE / self.width, _SIDE / self.height)
        axes = self.figure.add_axes(position)
        rows, columns = picture.shape[:2]
        axes.imshow(np.asarray(picture), interpolation="lanczos", extent=(0, columns, rows, 0))
        axes.set_axis_off()
        if box is not None:
            y0, x0, y1, x1 = box
            inset = 0.008 * max(rows, columns)  # half a line, so that a frame along the border is not cut
            corner, size = (x0 + inset, y0 + inset), (x1 - x0 - 2 * inset, y1 - y0 - 2 * inset)
            for line, color in ((3.6, "black"), (1.9, _FRAME)):
                axes.add_patch(Rectangle(corner, *size, fill=False, linewidth=line, edgecolor=color, joinstyle="miter"))


def _draw_match(canvas: _Canvas, match: Match, one: ClassPoints, *, top: float) -> None:
    left, card = _MARGIN, match.prototype
    caption = top + _SIDE + 0.11
    canvas.show(match.picture.image, left, top, match.picture.box)
    canvas.show(match.picture.heat, left + _SIDE + _GAP, top)
    canvas.write(left, caption, "this image", size=8, color=_MUTED)
    left += 2 * _SIDE + _GAP
    canvas.write(
        left + _WORDS / 2,
        top + _SIDE / 2,
        "looks like",
        size=11.5,
        color=_MUTED,
        align="center",
        family="serif",
        style="italic",
    )
    left += _WORDS
    if card.picture is None:
        canvas.write(left, top + _SIDE / 2, "a prototype that is no patch of an image", size=8, color=_MUTED)
    else:
        canvas.show(card.picture.image, left, top, card.picture.box)
        canvas.show(card.picture.heat, left + _SIDE + _GAP, top)
    canvas.write(left, caption, _shortened(name_match(match, one), _CAPTION), size=8, color=_MUTED)
    left = canvas.width - _MARGIN - _SUM
    middle = top + _SIDE / 2
    product = f"{match.similarity:.2f} {_TIMES} {_signed(match.weight)} ="
    canvas.write(left, middle - 0.3, f"similarity {_TIMES} weight", size=8, color=_MUTED)
    canvas.write(left, middle - 0.07, product, size=10.5)
    color = _ACCENT if match.points >= 0 else _AGAINST
    canvas.write(left, middle + 0.21, f"{_signed(match.points)} points", size=13, color=color, weight="bold")


def _draw_total(canvas: _Canvas, one: ClassPoints, matches: Sequence[Match]) -> None:
    """What the prototypes that are not drawn add, and the sum of all."""
    left_out = one.matches[len(matches) :]
    own = [match for match in left_out if match.prototype.is_of(one.class_index)]
    own_points = one.own_points + sum(match.points for match in own)
    foreign_points = one.other_points + sum(match.points for match in left_out) - own_points
    num_own, num_foreign = one.num_own + len(own), one.num_foreign + len(left_out) - len(own)
    lines = (
        f"{_signed(own_points)}  {num_own} more of {_shortened(one.class_name, 16)}",
        f"{_signed(foreign_points)}  {num_foreign} {name_foreign(one)}",
    )
    left, top = canvas.width - _MARGIN - _SUM, canvas.height - _FOOT
    for row, line in enumerate(lines):
        canvas.write(left, top + 0.1 + 0.22 * row, line, size=9, color=_MUTED)
    canvas.write(left, top + 0.62, f"{_signed(one.total)} points in all", size=12, weight="bold")


def _subtitle(item: ExplainedImage) -> str:
    name = _shortened(item.name, 70)
    return f"{name}; in truth {item.true_class}" if item.is_wrong else name


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
