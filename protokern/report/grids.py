"""Grids of prototypes, and of the patches nearest to a prototype, as figures for a paper; by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protokern.report.canvas import ACCENT, AGAINST, GAP, MARGIN, MUTED, Canvas, save, save_pages, shortened
from protokern.report.words import is_own, name_classes, name_frame_shortly
from protokern.results.prototypes import Neighbour, Prototype

COLUMNS, ROWS = 6, 7  # of a page
_SIDE, _WORDS, _PROOF, _ROW_GAP = (
    1.25,
    0.42,
    0.16,
    0.06,
)  # inches: a picture, the two lines below it, a third line, the distance to the next row
_NAME = 19  # letters below a picture
_HEAD, _LABEL, _APART = 0.85, 0.98, 0.16
_KINDS = ("box", "heat")


def write_prototype_grid(
    cards: Sequence[Prototype], path: Path, *, picture: str = "box", columns: int = COLUMNS, rows: int = ROWS
) -> list[Path]:
    """Draw prototypes in rows, each with its number and class below it.

    Args:
        cards: the prototypes to draw, in this order; prototypes without a picture, which are no patch of an image, are
            left out.
        path: of the grid; the suffix (.png, .pdf, .svg) gives the format. Further pages are in the same PDF, or in
            `NAME-2.png` and so on.
        picture: "box", the image with a frame around the patch, or "heat", its heat map.
        columns: of a page, at least 1.
        rows: of a page, at least 1.

    Returns:
        The paths of the files, in order.

    Raises:
        ValueError: no card has a picture, or an argument is out of range.
    """
    shown = [card for card in cards if card.picture is not None]
    if not shown:
        raise ValueError("cards: must hold at least one prototype with a picture; got none. Push the model first.")
    if picture not in _KINDS:
        raise ValueError(f"picture: must be {' or '.join(_KINDS)}; got {picture!r}.")
    if columns < 1 or rows < 1:
        raise ValueError(f"columns and rows: must be at least 1; got {columns} and {rows}.")
    per_page = columns * rows
    starts = range(0, len(shown), per_page)
    pages = (_draw_page(shown[start : start + per_page], picture, columns) for start in starts)
    return save_pages(pages, path)


def _draw_page(cards: Sequence[Prototype], picture: str, columns: int) -> Canvas:
    num_rows = -(-len(cards) // columns)
    is_tested = picture == "box" and any(card.picture and card.picture.proof for card in cards)
    step = _SIDE + _WORDS + _ROW_GAP + (_PROOF if is_tested else 0)
    width = 2 * MARGIN + min(columns, len(cards)) * (_SIDE + GAP) - GAP
    canvas = Canvas(width, 2 * MARGIN + num_rows * step)
    for position, card in enumerate(cards):
        row, column = divmod(position, columns)
        left, top = MARGIN + column * (_SIDE + GAP), MARGIN + row * step
        assert card.picture is not None
        if picture == "box":
            canvas.show(card.picture.image, left, top, card.picture.box, cell=card.picture.cell, side=_SIDE)
        else:
            canvas.show(card.picture.heat, left, top, side=_SIDE)
        canvas.write(left, top + _SIDE + 0.12, f"prototype {card.index}", size=7.5)
        canvas.write(left, top + _SIDE + 0.28, shortened(name_classes(card), _NAME), size=7.5, color=MUTED)
        if is_tested:
            canvas.write(left, top + _SIDE + 0.44, name_frame_shortly(card.picture.proof), size=7.5, color=MUTED)
    return canvas


def write_neighbours(card: Prototype, path: Path) -> None:
    """Draw a prototype and its nearest patches, one row for the training images and one for the test images.

    The class of a neighbour is red if the prototype does not belong to it.

    Args:
        card: a prototype with `neighbours`.
        path: of the figure; the suffix (.png, .pdf, .svg) gives the format.

    Raises:
        ValueError: the card has no neighbours.
    """
    found = card.neighbours
    if found is None:
        raise ValueError(f"card: must have neighbours; prototype {card.index} has none.")
    most = max(len(found.train), len(found.test), 1)
    step = _SIDE + _WORDS + _ROW_GAP
    first = MARGIN + _SIDE + _APART + _LABEL
    canvas = Canvas(first + most * (_SIDE + GAP) - GAP + MARGIN, _HEAD + 2 * step + MARGIN)
    title = f"Prototype {card.index}, {shortened(name_classes(card), 48)}"
    canvas.write(MARGIN, 0.32, title, size=13, family="serif", weight="bold")
    canvas.write(MARGIN, 0.58, shortened(card.source_name or "", 70), size=8, color=MUTED)
    if card.picture is None:
        canvas.write(MARGIN, _HEAD + _SIDE / 2, "no patch of an image", size=7.5, color=MUTED)
    else:
        canvas.show(card.picture.image, MARGIN, _HEAD, card.picture.box, cell=card.picture.cell, side=_SIDE)
        canvas.show(card.picture.heat, MARGIN, _HEAD + step, side=_SIDE)
    rows = (("training", found.train, found.agreement_train), ("test", found.test, found.agreement_test))
    for row, (name, neighbours, agreement) in enumerate(rows):
        top = _HEAD + row * step
        left = first - _LABEL
        canvas.write(left, top + _SIDE / 2 - 0.2, "nearest patches,", size=7.5, color=MUTED)
        canvas.write(left, top + _SIDE / 2 - 0.05, f"{name} images", size=7.5, color=MUTED)
        if neighbours:
            canvas.write(left, top + _SIDE / 2 + 0.18, f"{agreement:.0%}", size=12, weight="bold")
            canvas.write(left, top + _SIDE / 2 + 0.36, "of its class", size=7.5, color=MUTED)
        for column, neighbour in enumerate(neighbours):
            _draw_neighbour(canvas, card, neighbour, left=first + column * (_SIDE + GAP), top=top)
    save(canvas, path)


def _draw_neighbour(canvas: Canvas, card: Prototype, neighbour: Neighbour, *, left: float, top: float) -> None:
    box = neighbour.picture.box
    if card.picture is not None and card.picture.cell is not None:  # its frame was tested; frames of neighbours are not
        canvas.show(neighbour.picture.image, left, top, cell=box, side=_SIDE)
    else:
        canvas.show(neighbour.picture.image, left, top, box, side=_SIDE)
    name = shortened(neighbour.class_name, _NAME)
    canvas.write(left, top + _SIDE + 0.12, name, size=7.5, color=ACCENT if is_own(card, neighbour) else AGAINST)
    canvas.write(left, top + _SIDE + 0.28, f"similarity {neighbour.similarity:.2f}", size=7.5, color=MUTED)
