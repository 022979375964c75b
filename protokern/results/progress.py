"""How long work tells how far it is, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Passes items on one by one, and shows how many of `total` are done."""

    def __call__(self, things: Iterable[Item], title: str, total: int, /) -> Iterator[Item]: ...


def show_nothing(things: Iterable[Item], title: str, total: int, /) -> Iterator[Item]:
    """Passes items on, and shows nothing."""
    return iter(things)
