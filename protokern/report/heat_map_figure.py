"""Heat maps by several methods side by side, as one figure, by matplotlib."""

from __future__ import annotations

from pathlib import Path

from protokern.report.canvas import GAP, MARGIN, MUTED, SIDE, Canvas, save, shortened, signed
from protokern.results.heat_maps import HeatMapComparison

_HEAD, _FOOT, _LABEL, _ROW_GAP = 1.12, 0.3, 0.2, 0.3  # inches
_TITLE, _NAME = 60, 120  # letters
# What each column shows, below its name.
_WORDS = {
    "image": "frame and cell",
    "upsample": "activation of all patches",
    "gradient": "slope of the similarity",
    "smoothgrad": "slope under noise",
    "occlusion": "lost under a grey window",
    "rise": "kept by random masks",
    "prp": "relevance, layer by layer",
}


def write_heat_map_figure(comparison: HeatMapComparison, path: Path) -> None:
    """Draw a row for each prototype: the image with its frame, then a column for each method.

    Args:
        comparison: what to draw.
        path: of the figure; the suffix (.png, .pdf, .svg) gives the format.
    """
    columns = 1 + len(comparison.methods)
    step = SIDE + _ROW_GAP
    width = 2 * MARGIN + columns * SIDE + (columns - 1) * GAP
    height = _HEAD + len(comparison.rows) * step + _FOOT + _LABEL * len(comparison.left_out)
    canvas = Canvas(width, height)
    answer = shortened(comparison.answer, _TITLE)
    canvas.write(MARGIN, 0.24, f"Where {answer} was seen", size=15, family="serif", weight="bold")
    canvas.write(MARGIN, 0.5, shortened(comparison.name, _NAME), size=8.5, color=MUTED)
    for column, method in enumerate(("image", *comparison.methods)):
        left = MARGIN + column * (SIDE + GAP)
        canvas.write(left, 0.82, method, size=9.5, weight="bold")
        canvas.write(left, 1.0, _WORDS[method], size=7.5, color=MUTED)
    for row, one in enumerate(comparison.rows):
        top = _HEAD + row * step
        canvas.show(one.seen.image, MARGIN, top, one.seen.box, cell=one.seen.cell)
        for column, heat in enumerate(one.heats, start=1):
            canvas.show(heat, MARGIN + column * (SIDE + GAP), top)
        canvas.write(
            MARGIN, top + SIDE + 0.11, f"prototype {one.prototype}: {signed(one.points)} points", size=8, color=MUTED
        )
    for line, (method, reason) in enumerate(comparison.left_out):
        middle = height - _FOOT + 0.1 - _LABEL * (len(comparison.left_out) - 1 - line)
        canvas.write(MARGIN, middle, shortened(f"without {method}: {reason}", 170), size=7.5, color=MUTED)
    save(canvas, path)
