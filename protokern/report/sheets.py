"""What the page shows of one prototype at a time, as JSON that the page's script reads. No HTML here.

Texts are ready to be shown, and the script shows them as text; pictures are places on the shelf.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

from protokern.report.images import PictureShelf
from protokern.report.numbers import decimal, short
from protokern.report.words import (
    is_own,
    main_reasons,
    name_classes,
    name_property,
    say_agreement,
    say_because,
    say_frame,
)
from protokern.results.places import Picture, SeenPicture
from protokern.results.prototypes import Neighbour, PrototypeCard
from protokern.results.run import ReportData

# What ends a script or begins markup, as JSON may also write it.
_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))


def page_pictures(data: ReportData) -> Iterator[Picture]:
    """The pictures that the page itself shows, in order."""
    for item in data.explanations:
        yield item.image
        for one in item.classes:
            for match in one.matches:
                yield from _both(match.picture)
                if match.prototype.picture is not None:
                    yield from _both(match.prototype.picture)
    for card in data.prototypes:
        if card.picture is not None:
            yield from _both(card.picture)


def sheet_pictures(data: ReportData) -> Iterator[Picture]:
    """The pictures that only the sheets of single prototypes show."""
    for card in data.prototypes:
        if card.neighbours is not None:
            yield from (one.picture.image for one in (*card.neighbours.train, *card.neighbours.test))


def _both(seen: SeenPicture) -> Iterator[Picture]:
    yield seen.image
    if seen.heat is not None:
        yield seen.heat


def sheets_json(data: ReportData, shelf: PictureShelf, num_on_page: int, *, beside: bool) -> str:
    """All sheets, safe inside a script element.

    Args:
        data: of the run.
        shelf: with all its pictures.
        num_on_page: so many pictures, the first ones of the shelf, are on the page itself; the others are put here.
        beside: pictures are files beside the page.
    """
    if beside:
        pictures: list[str | None] = [one.name for one in shelf.pictures]
    else:
        pictures = [None] * num_on_page
        pictures += [base64.b64encode(one.data).decode("ascii") for one in shelf.pictures[num_on_page:]]
    is_tested = any(card.picture is not None and card.picture.proof is not None for card in data.prototypes)
    texts = _Texts()
    sheets = []
    for card in data.prototypes:
        sheet = _sheet(card, shelf, texts)
        sheet["of"] = "not chosen yet" if data.still_chooses else name_classes(card)
        sheets.append(sheet)
    table = {
        "beside": beside,
        "focal": data.is_focal,
        "tested": is_tested,
        "pictures": pictures,
        "sheets": sheets,
        "texts": texts.all,
    }
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter, escape in _ESCAPES:
        text = text.replace(letter, escape)
    return text


class _Texts:
    """Names that come again and again, each once; a sheet has their places."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        return self._places.setdefault(text, len(self._places))

    @property
    def all(self) -> list[str]:
        return list(self._places)


def _sheet(card: PrototypeCard, shelf: PictureShelf, texts: _Texts) -> dict[str, Any]:
    heat = None if card.picture is None or card.picture.heat is None else shelf.find(card.picture.heat).index
    classes = sorted(card.classes, key=lambda one: -one.weight)
    near = card.neighbours
    sheet = {
        "index": card.index,
        "classes": [[texts.place(one.class_name), decimal(one.weight)] for one in classes],
        "source": card.source_name,
        "moved": None if card.distance is None else short(card.distance),
        "view": None if card.picture is None else _view(card.picture, shelf),
        "heat": heat,
        "proof": say_frame(card.picture.proof) if card.picture else "",
        "because": say_because(card),
        "main": [name_property(one.modification) for one in main_reasons(card.reasons, card.mean_similarity)],
        "reasons": [
            # As they are: the sentence and the script must round the same numbers.
            [name_property(one.modification), one.score, one.low, one.high, one.test_score]
            for one in card.reasons
        ],
        "near": None
        if near is None
        else [_patches(card, neighbours, shelf, texts) for neighbours in (near.train, near.test)],
    }
    return {name: value for name, value in sheet.items() if value not in (None, "", [])}


def _patches(card: PrototypeCard, neighbours: Sequence[Neighbour], shelf: PictureShelf, texts: _Texts) -> list[Any]:
    rows = [
        [
            _view(one.picture, shelf),
            texts.place(one.name),
            texts.place(one.class_name),
            int(is_own(card, one)),
            decimal(one.similarity),
            short(one.distance),
        ]
        for one in neighbours
    ]
    return [say_agreement(card, neighbours), rows]


def _view(seen: SeenPicture, shelf: PictureShelf) -> list[Any]:
    """[picture, rows, columns, box, field, cell]; no field where it is the whole picture, no cell if unmarked."""
    rows, columns = seen.image.shape[:2]
    box, field = tuple(map(int, seen.box)), tuple(map(int, seen.receptive_field_box))
    field_seen = None if field == (0, 0, rows, columns) else field
    view = [shelf.find(seen.image).index, rows, columns, box, field_seen]
    return view if seen.cell is None else [*view, tuple(map(int, seen.cell))]
