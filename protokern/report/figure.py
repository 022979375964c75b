"""One explanation as a figure for a paper or a README: this looks like that, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protokern.report.canvas import ACCENT, AGAINST, GAP, MARGIN, MUTED, SIDE, Canvas, save, shortened, signed
from protokern.report.numbers import percent
from protokern.report.words import name_foreign, name_frame, name_match, say_decision, say_role
from protokern.results.explanations import ClassExplanation, DecisionEnd, Evidence, Explanation

FIGURE_MATCHES = 3
_TIMES = "\N{MULTIPLICATION SIGN}"

# Inches. Four pictures in a row, words between the pairs, the sum on the right.
_WORDS, _SUM, _HEAD, _FOOT, _ROW_GAP, _SUM_GAP = 0.95, 2.05, 0.95, 0.95, 0.34, 0.3
_LINE = 0.15  # between the two text lines below a pair of pictures
_TITLE, _CAPTION = 48, 54  # letters in the title, and below a pair of pictures


def write_figure(item: Explanation, path: Path, *, max_matches: int = FIGURE_MATCHES) -> None:
    """Draw why an image got its class: a row for each of the first matches, and how the points add up.

    Args:
        item: the explained image; its first class is drawn.
        path: of the figure; the suffix (.png, .pdf, .svg) gives the format.
        max_matches: number of rows, at least 1.

    Raises:
        ValueError: `max_matches` is below 1.
    """
    if max_matches < 1:
        raise ValueError(f"max_matches: must be at least 1; got {max_matches}.")
    one = item.classes[0]
    matches = one.matches[:max_matches]
    width = 2 * MARGIN + 4 * SIDE + 2 * GAP + _WORDS + _SUM_GAP + _SUM
    is_tested = any(match.picture.proof is not None for match in matches)
    step = SIDE + _ROW_GAP + (_LINE if is_tested else 0)
    height = _HEAD + len(matches) * step + _FOOT
    canvas = Canvas(width, height)
    answer = shortened(item.predicted_class if item.abstains else one.class_name, _TITLE)
    canvas.write(MARGIN, 0.38, f"Why {answer}?", size=17, family="serif", weight="bold")
    canvas.write(MARGIN, 0.68, _subtitle(item), size=9.5, color=MUTED)
    for row, match in enumerate(matches):
        _draw_match(canvas, match, one, top=_HEAD + row * step)
    if item.end is None:
        _draw_total(canvas, one, matches)
    else:
        _draw_end(canvas, item, item.end, num_left=len(one.matches) - len(matches))
    save(canvas, path)


def _draw_match(canvas: Canvas, match: Evidence, one: ClassExplanation, *, top: float) -> None:
    left, card = MARGIN, match.prototype
    caption = top + SIDE + 0.11
    if match.is_present is False:  # nothing is there to be framed
        canvas.show(match.picture.image, left, top)
    else:
        canvas.show(match.picture.image, left, top, match.picture.box, cell=match.picture.cell)
        canvas.show(match.picture.heat, left + SIDE + GAP, top)
        canvas.write(left, caption + _LINE, name_frame(match.picture.proof), size=8, color=MUTED)
    canvas.write(left, caption, "this image", size=8, color=MUTED)
    left += 2 * SIDE + GAP
    canvas.write(
        left + _WORDS / 2,
        top + SIDE / 2,
        "no part like" if match.is_present is False else "looks like",
        size=11.5 if match.is_present is not False else 10,
        color=MUTED,
        align="center",
        family="serif",
        style="italic",
    )
    if not match.is_reason:
        middle = left + _WORDS / 2
        canvas.write(middle, top + SIDE / 2 + 0.2, say_role(match), size=8, color=MUTED, align="center")
    left += _WORDS
    if card.picture is None:
        canvas.write(left, top + SIDE / 2, "a prototype that is no patch of an image", size=8, color=MUTED)
    else:
        canvas.show(card.picture.image, left, top, card.picture.box, cell=card.picture.cell)
        canvas.write(left, caption + _LINE, name_frame(card.picture.proof), size=8, color=MUTED)
        canvas.show(card.picture.heat, left + SIDE + GAP, top)
    name = name_match(match, one) if match.is_present is None else f"prototype {card.index}"
    canvas.write(left, caption, shortened(name, _CAPTION), size=8, color=MUTED)
    _draw_result(canvas, match, canvas.width - MARGIN - _SUM, top + SIDE / 2)


def _draw_result(canvas: Canvas, match: Evidence, left: float, middle: float) -> None:
    """The points of a match, or the side that a decision takes."""
    if match.is_present is not None:
        words = say_decision(match)
        color = AGAINST if words["against"] else ACCENT
        canvas.write(left, middle - 0.07, str(words["product"]), size=8, color=MUTED)
        canvas.write(left, middle + 0.21, str(words["points"]), size=13, color=color, weight="bold")
        return
    product = f"{match.similarity:.2f} {_TIMES} {signed(match.weight)} ="
    canvas.write(left, middle - 0.3, f"similarity {_TIMES} weight", size=8, color=MUTED)
    canvas.write(left, middle - 0.07, product, size=10.5)
    color = ACCENT if match.points >= 0 else AGAINST
    canvas.write(left, middle + 0.21, f"{signed(match.points)} points", size=13, color=color, weight="bold")


def _draw_total(canvas: Canvas, one: ClassExplanation, matches: Sequence[Evidence]) -> None:
    """The points of the prototypes that are not drawn, and the sum of all."""
    left_out = one.matches[len(matches) :]
    own = [match for match in left_out if match.prototype.is_of(one.class_index)]
    own_points = one.own_points + sum(match.points for match in own)
    foreign_points = one.own_points + one.foreign_points + sum(match.points for match in left_out) - own_points
    num_own, num_foreign = one.num_own + len(own), one.num_foreign + len(left_out) - len(own)
    lines = [
        *([f"{signed(own_points)}  {num_own} more of {shortened(one.class_name, 16)}"] if num_own else []),
        *([f"{signed(foreign_points)}  {num_foreign} {name_foreign(one)}"] if num_foreign else []),
    ]
    left, top = canvas.width - MARGIN - _SUM, canvas.height - _FOOT
    for row, line in enumerate(lines):
        canvas.write(left, top + 0.1 + 0.22 * row, line, size=9, color=MUTED)
    canvas.write(left, top + 0.62, f"{signed(one.total)} points in all", size=12, weight="bold")


def _draw_end(canvas: Canvas, item: Explanation, end: DecisionEnd, *, num_left: int) -> None:
    """The leaf where the decisions end, and the answer of the whole tree."""
    left, top = canvas.width - MARGIN - _SUM, canvas.height - _FOOT
    name, probability = item.class_names[end.classes[0][0]], end.classes[0][1]
    more = [f"{num_left} more decision{'' if num_left == 1 else 's'}"] if num_left else []
    for row, line in enumerate([*more, f"leaf: {shortened(name, 20)} {percent(probability)}"]):
        canvas.write(left, top + 0.1 + 0.22 * row, line, size=9, color=MUTED)
    canvas.write(left, top + 0.62, f"whole tree: {percent(item.classes[0].probability)}", size=12, weight="bold")


def _subtitle(item: Explanation) -> str:
    name = shortened(item.name, 70)
    return f"{name}; in truth {item.true_class}" if item.is_wrong else name
