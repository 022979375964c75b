"""The prototypes of a net as a sequence that shows itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

from protokern.explain.shown import Shown
from protokern.results.prototypes import Prototype
from protokern.results.run import Report


class Gallery(Shown, Sequence[Prototype]):
    """Prototypes with their pictures; a slice, and those of a class, are galleries again.

    It shows the part "All prototypes" of a run's page.

    Args:
        data: the page's data, with all prototypes of the net.
        chosen: which of them, by index; None: all.
    """

    __slots__ = ("_cards", "_data")

    def __init__(self, data: Report, chosen: Iterable[int] | None = None) -> None:
        self._data = data
        self._cards = data.prototypes if chosen is None else tuple(data.prototypes[index] for index in chosen)

    def __len__(self) -> int:
        return len(self._cards)

    @overload
    def __getitem__(self, place: int) -> Prototype: ...

    @overload
    def __getitem__(self, place: slice) -> Gallery: ...

    def __getitem__(self, place: int | slice) -> Prototype | Gallery:
        if isinstance(place, slice):
            return Gallery(self._data, [card.index for card in self._cards[place]])
        return self._cards[place]

    def of(self, name: str) -> Gallery:
        """Those that belong to a class.

        Raises:
            ValueError: there is no such class.
        """
        if name not in self._data.classes:
            wanted = ", ".join(self._data.classes[:10])
            raise ValueError(f"name: must be a class, one of {wanted}; got {name!r}. Check the spelling.")
        own = self._data.classes.index(name)
        return Gallery(self._data, [card.index for card in self._cards if card.is_of(own)])

    def __repr__(self) -> str:
        count = sum(card.picture is not None for card in self._cards)
        return f"Gallery of {self._data.title}: {len(self)} prototypes, {count} with pictures"

    def _render(self) -> str | None:
        from protokern.report.page import render_gallery

        return render_gallery(self._shown())

    def save(self, path: Path | str) -> None:
        """Write the page of these prototypes to `path`, at once; many pictures go to a folder beside it."""
        from protokern.report.page import write_gallery

        write_gallery(self._shown(), Path(path))

    def _shown(self) -> Report:
        if len(self) == len(self._data.prototypes):
            return self._data
        # Slots and trees name prototypes that are not shown here.
        return replace(self._data, prototypes=self._cards, slots=(), tree=None, scoring=None)
