"""The account of a user's files: every file is in one of its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

HIDDEN = "hidden"
_NUM_NAMES = 3
_NUM_LISTED = 10
_WORDS = {"train": "training", "val": "validation", "test": "test"}


class PassedOver:
    """Files that do not count, by reason."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._names: dict[str, dict[str, None]] = {}  # the first ones, each once

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Record `count` files (none for 0) under `name`."""
        if count == 0:
            return
        self._counts[reason] = self._counts.get(reason, 0) + count
        names = self._names.setdefault(reason, {})
        if len(names) <= _NUM_NAMES:
            names[name if name.isprintable() else ascii(name)] = None

    @property
    def count(self) -> int:
        """How many files do not count."""
        return sum(self._counts.values())

    def __str__(self) -> str:
        """The numbers with their reasons and the first names; empty if all count."""
        if not self._counts:
            return ""
        parts = []
        for reason, count in self._counts.items():
            names = list(self._names[reason])
            more = " ..." if len(names) > _NUM_NAMES else ""
            parts.append(f"{count:,} {reason} ({', '.join(names[:_NUM_NAMES])}{more})")
        return f"{self.count:,} not counted: {', '.join(parts)}"


def describe_account(
    counts: Mapping[str, int], passed: PassedOver, *, noun: str, origin: Mapping[str, str] | None = None
) -> str:
    """One line: how many files there are, how many are in every split, how many do not count and why.

    Args:
        counts: of the images that count, by split.
        passed: those that do not count.
        noun: what is counted, such as "files".
        origin: what to add to the number of a split, such as the name of its folder.
    """
    total = sum(counts.values()) + passed.count
    splits = []
    for name, count in counts.items():
        note = (origin or {}).get(name, "")
        splits.append(f"{count:,} {_WORDS[name]}" + (f" ({note})" if note else ""))
    line = f"data: {total:,} {noun}: {', '.join(splits)}"
    return f"{line}; {passed}" if passed.count else line


def share_in_words(taken: Sequence[int], of: Sequence[int], wanted: float) -> str:
    """The share of the classes that was actually taken: small classes give more or less than asked for.

    Args:
        taken: images that were taken, by class.
        of: number of images, by class.
        wanted: the share asked for.
    """
    shares = [round(100 * part / whole) for part, whole in zip(taken, of, strict=True) if whole]
    asked = round(100 * wanted)
    if all(share == asked for share in shares):
        return f"{asked}% of each class"
    low, high = min(shares), max(shares)
    got = f"{low}% of each class" if low == high else f"{low}% to {high}% of a class"
    return f"{got}, as near to {asked}% as whole images come"


def listed(items: Sequence[object], limit: int = _NUM_LISTED) -> str:
    """The first items, separated by commas, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def counted(items: Sequence[object], noun: str) -> str:
    """A number of things, in words."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
