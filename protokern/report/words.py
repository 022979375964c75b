"""Prototypes, their classes and slots in a few words: the same on pages, in figures and on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from protokern.report.data import ClassPoints, Match, PrototypeCard

MOST_NAMES = 3


def join_names(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Names in a row; where there are more than `most`, the first ones and how many more."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def name_classes(card: PrototypeCard) -> str:
    """The classes of a prototype: its one class, "shared by hat, dress", or "used by no class"."""
    names = [one.class_name for one in card.classes]
    if not names:
        return "used by no class"
    return names[0] if len(names) == 1 else f"shared by {join_names(names)}"


def name_match(match: Match, one: ClassPoints) -> str:
    """The prototype of a match: "prototype 12, hat", or "slot 3: prototype 17, shared with dress, skirt"."""
    prototype = f"prototype {match.prototype.index}"
    if not match.slots:
        return f"{prototype}, {name_classes(match.prototype)}"
    return f"{name_slots(match.slots)}: {prototype}, {name_sharers(match, one)}"


def name_slots(slots: Sequence[int]) -> str:
    """ "slot 3", or "slots 3, 5"."""
    return f"slot{'' if len(slots) == 1 else 's'} {', '.join(map(str, slots))}"


def name_sharers(match: Match, one: ClassPoints) -> str:
    """With which other classes a class shares the prototype of a match: "shared with dress", or "not shared"."""
    others = [other.class_name for other in match.prototype.classes if other.class_index != one.class_index]
    return f"shared with {join_names(others)}" if others else "not shared"


def name_foreign(one: ClassPoints) -> str:
    """What `foreign_points` are of: "of other classes", and "or none" where some belong to no class."""
    return "of other classes or none" if one.num_unused else "of other classes"
