"""The page that says why one class and not another. It is drawn like the explanation of one class."""

from __future__ import annotations

from typing import Any

from protokern.report.numbers import TIMES, decimal, percent
from protokern.report.reading import say_reading
from protokern.report.view import Table, View
from protokern.report.words import name_classes
from protokern.results.contrast import Contrast, ContrastRow
from protokern.storage.names import one_line


def view_contrast(contrast: Contrast) -> tuple[Table, Any]:
    """The page of a contrast as a table, and its pictures."""
    view = View(links=False, has_exemplars=contrast.has_exemplars)
    pictures = [row.evidence.picture for row in contrast.rows]
    names, totals = (contrast.a, contrast.b), (contrast.total_a, contrast.total_b)
    shares = (contrast.probability_a, contrast.probability_b)
    table = {
        "title": f"Why {contrast.a} and not {contrast.b}? {contrast.name}",
        "model": contrast.model_name,
        "item": {
            "name": contrast.name,
            "answer": f"{contrast.a} and not {contrast.b}",
            "picture": [view.shelf.find(contrast.image).index, *contrast.image.shape[:2]],
            "alt": f"The explained image, {contrast.name}",
            "verdict": "",
            "truth": None,
            "unknown": "What every prototype says for the first class rather than the second.",
            "totals": [
                [name, decimal(total), percent(share), round(share, 3)]
                for name, total, share in zip(names, totals, shares, strict=True)
            ],
            "total_head": "points",
            "why": ["Prototype by prototype"],
            "first": _differences(contrast, view),
            "others": [],
        },
        "reading": say_reading(
            is_focal=contrast.is_focal,
            is_salient=contrast.is_salient,
            is_projected=contrast.is_projected,
            has_exemplars=contrast.has_exemplars,
            has_proof=any(one.proof is not None for one in pictures),
            sees_part=any(one.sees_part for one in pictures),
            has_slots=False,
            is_tree=False,
            is_report=False,
        ),
    }
    return table, view.shelf


def _differences(contrast: Contrast, view: View) -> Table:
    largest = max((abs(row.difference) for row in contrast.rows), default=0.0) or 1.0
    for_a = [_row(row, view, largest) for row in contrast.rows if row.difference > 0]
    for_b = [_row(row, view, largest) for row in contrast.rows if row.difference <= 0]
    shown = sum(row.difference for row in contrast.rows)
    ledger: list[Any] = [
        [[f"{len(contrast.rows)} prototype{'' if len(contrast.rows) == 1 else 's'} shown"], decimal(shown)]
    ]
    if contrast.num_other:
        ledger.append([[f"{contrast.num_other} more, together"], decimal(contrast.other_difference)])
    if contrast.bias:
        ledger.append([["difference of the biases"], decimal(contrast.bias)])
    return {
        "reasons": for_a,
        "none": ["No prototype speaks for ", ["bdi", contrast.a], " here."] if not for_a else None,
        "counted": ["These speak for ", ["bdi", contrast.b], " instead."] if for_b else None,
        "no_reasons": for_b,
        "ledger": ledger,
        "total": [
            ["more for ", ["bdi", contrast.a], " than for ", ["bdi", contrast.b]],
            f"{decimal(contrast.difference)} points",
        ],
    }


def _row(row: ContrastRow, view: View, largest: float) -> Table:
    card = row.evidence.prototype
    return {
        **view.match_pictures(row.evidence),
        "role": "",
        "caption": f"prototype {card.index}, {name_classes(card)}",
        "product": f"{decimal(row.evidence.similarity)} {TIMES} ({_weights(row)}) =",
        "points": f"{decimal(row.difference)} points",
        "share": round(abs(row.difference) / largest, 3),
        "against": row.difference < 0,
        "because": "",
    }


def _weights(row: ContrastRow) -> str:
    return f"{decimal(row.weight_a)} \N{MINUS SIGN} {_bracketed(row.weight_b)}"


def _bracketed(value: float) -> str:
    text = decimal(value)
    return f"({text})" if value < 0 else text


def contrast_lines(contrast: Contrast) -> list[str]:
    """A contrast in a few lines of plain text."""
    of = f"{one_line(contrast.name)}: " if contrast.name else ""
    lines = [
        f"{of}{contrast.a} and not {contrast.b}: {contrast.total_a:.2f} - {contrast.total_b:.2f} = "
        f"{contrast.difference:.2f} points"
    ]
    for row in contrast.rows:
        card = row.evidence.prototype
        source = f" from {one_line(card.source_name)}" if card.source_name is not None else ""
        lines.append(
            f"  {row.difference:8.2f} = {row.evidence.similarity:.2f} x ({row.weight_a:.2f} - {row.weight_b:.2f})"
            f"  looks like prototype {card.index} ({name_classes(card)}){source}"
        )
    if contrast.num_other:
        lines.append(f"  {contrast.other_difference:8.2f}   {contrast.num_other} other prototypes, together")
    if contrast.bias:
        lines.append(f"  {contrast.bias:8.2f}   difference of the biases")
    return lines
