"""What a person may change about a trained net, as plain values that a line of JSON holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, get_args

from protokern.errors import ProtokernError
from protokern.solvers.limits import OthersSign, OwnSign, SignLimit


class EditError(ProtokernError, ValueError):
    """An edit cannot be read, or does not fit the net."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forbid:
    """The net may not use a prototype.

    Attributes:
        prototype: its number. Prototypes of the run have those of its report; an added one has the next number that was
            never used, which undoing does not give back.
        reason: why, in the person's words.
    """

    kind: ClassVar[str] = "forbid"

    prototype: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """A prototype was looked at and is to stay; one that was forbidden comes back."""

    kind: ClassVar[str] = "keep"

    prototype: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """A prototype becomes another patch of a training image.

    Attributes:
        prototype: its number.
        image: name of the training image, as the report has it, such as "train/dress/3.jpg".
        patch: (row, column) in the grid of patches.
    """

    kind: ClassVar[str] = "replace"

    prototype: int
    image: str
    patch: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """A patch of a training image becomes a new prototype.

    Attributes:
        classes: names of the classes that it belongs to, at least one.
        image, patch: as in `Replace`.
    """

    kind: ClassVar[str] = "add"

    classes: tuple[str, ...]
    image: str
    patch: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """A prototype belongs to these classes and to no other: one moves it, several share it.

    Attributes:
        prototype: its number.
        classes: names of the classes, at least one.
    """

    kind: ClassVar[str] = "assign"

    prototype: int
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What prototypes may say about some classes; it replaces the former limit of each, and "any" lifts it.

    Attributes:
        classes: names of the classes, at least one.
        own: what their own prototypes may say: "for" them only, or "any".
        others: what prototypes of other classes may say: only "against" them, "none", or "any".
    """

    kind: ClassVar[str] = "limit"

    classes: tuple[str, ...]
    own: OwnSign = "any"
    others: OthersSign = "any"

    @property
    def in_words(self) -> str:
        """What is allowed, as clauses; empty if all is."""
        own = {"any": [], "for": ["its own prototypes speak only for it"]}[self.own]
        others = {
            "any": [],
            "against": ["prototypes of other classes speak only against it"],
            "none": ["prototypes of other classes say nothing about it"],
        }[self.others]
        return "; ".join([*own, *others])

    @property
    def signs(self) -> SignLimit:
        """The same for the solver of the last layer."""
        return SignLimit(own=self.own, others=self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """The last edit that counts does not."""

    kind: ClassVar[str] = "undo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redo:
    """The edit that was undone last counts again; not after another edit."""

    kind: ClassVar[str] = "redo"


PrototypeEdit = Forbid | Keep | Replace | Add | Assign
Edit = PrototypeEdit | Limit
Entry = Edit | Undo | Redo
_KINDS: dict[str, type[Entry]] = {one.kind: one for one in (Forbid, Keep, Replace, Add, Assign, Limit, Undo, Redo)}


def to_table(entry: Entry) -> dict[str, Any]:
    """An entry as a line of the history holds it: its fields and its kind."""
    return {"kind": entry.kind, **{key: list(v) if isinstance(v, tuple) else v for key, v in asdict(entry).items()}}


def from_table(table: Any) -> Entry:
    """The entry that `to_table` turned into a table.

    Raises:
        EditError: it is none; the message is the end of a sentence.
    """
    got = table.get("kind") if isinstance(table, Mapping) else type(table).__name__
    if not isinstance(table, Mapping) or not isinstance(got, str) or got not in _KINDS:
        raise EditError(f"must be one of {', '.join(_KINDS)}; got {got!r}")
    owner = _KINDS[got]
    wanted = {field.name: field for field in fields(owner)}
    unknown = sorted({*table} - {*wanted, "kind"})
    if unknown:
        raise EditError(f"must have no {unknown[0]!r} in {owner.kind!r}")
    values = {name: _read(owner.kind, name, table[name]) for name in wanted if name in table}
    missing = [name for name, field in wanted.items() if name not in values and field.default is MISSING]
    if missing:
        raise EditError(f"must have {missing[0]!r} in {owner.kind!r}")
    return owner(**values)


def _read(kind: str, name: str, value: Any) -> Any:
    def is_count(one: Any) -> bool:
        return type(one) is int and 0 <= one < 2**31

    own, others = get_args(OwnSign), get_args(OthersSign)
    wanted, holds = {
        "prototype": ("a number from 0", is_count(value)),
        "patch": (
            "[row, column], counted from 0",
            isinstance(value, list | tuple) and len(value) == 2 and all(map(is_count, value)),
        ),
        "classes": (
            "different names of classes, at least one",
            isinstance(value, list | tuple)
            and len(value) > 0
            and all(isinstance(one, str) for one in value)
            and len({*value}) == len(value),
        ),
        "own": (f"one of {', '.join(own)}", value in own),
        "others": (f"one of {', '.join(others)}", value in others),
    }.get(name, ("a text", isinstance(value, str)))
    if not holds:
        raise EditError(f"must have {wanted} as {name!r} in {kind!r}; got {str(value)[:60]!r}")
    return tuple(value) if isinstance(value, list) else value
