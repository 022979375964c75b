"""A pool of prototypes that classes share, as the page of a run shows it. No HTML here."""

from __future__ import annotations

from dataclasses import dataclass

from protokern.results.prototypes import Prototype
from protokern.results.run import Report

LARGEST_ILLUSTRATED = 240  # slots; larger tables show numbers without pictures


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A class and the prototypes in its slots; None where a slot is empty."""

    name: str
    cards: tuple[Prototype | None, ...]


@dataclass(frozen=True, slots=True)
class PoolView:
    """Which prototypes the classes have in their slots.

    Attributes:
        rows: the classes, in order.
        shared: prototypes of at least two classes.
        single: prototypes of one class.
        unused: prototypes of no class.
        num_empty: number of slots without a prototype.
        has_pictures: whether the table shows the patches.
    """

    rows: tuple[PoolRow, ...]
    shared: tuple[Prototype, ...]
    single: tuple[Prototype, ...]
    unused: tuple[Prototype, ...]
    num_empty: int
    has_pictures: bool

    @property
    def num_slots(self) -> int:
        """The number of slots per class."""
        return len(self.rows[0].cards)


def view_pool(data: Report) -> PoolView | None:
    """The pool of a run; None for a model without slots or one that still chooses."""
    if not data.slots:
        return None
    by_index = {card.index: card for card in data.prototypes}
    rows = tuple(
        PoolRow(one.class_name, tuple(None if index is None else by_index[index] for index in one.prototypes))
        for one in data.slots
    )
    cells = [card for row in rows for card in row.cards]
    return PoolView(
        rows=rows,
        shared=tuple(card for card in data.prototypes if len(card.classes) > 1),
        single=tuple(card for card in data.prototypes if len(card.classes) == 1),
        unused=tuple(card for card in data.prototypes if not card.classes),
        num_empty=cells.count(None),
        has_pictures=len(cells) <= LARGEST_ILLUSTRATED and any(card and card.picture for card in cells),
    )
