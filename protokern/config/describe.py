"""The settings in words: every key of a configuration with its default, allowed values and meaning.

All of it comes from the dataclasses: types and defaults from their fields, the meaning from their docstrings.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from protokern.config.data import DataConfig
from protokern.config.train import PruneConfig, TrainConfig
from protokern.models.configurations import DEFAULT_MODEL, all_configurations

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}
_COUNTS = {2: "two"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One key.

    Attributes:
        table: of the file, such as "train".
        name: of the key in that table.
        model: the model with this key, or with this default; empty: all models, and keys outside `model`.
        default: the default as TOML; empty: not set.
        takes: types and allowed values in words.
        meaning: from the docstring of the dataclass.
    """

    table: str
    name: str
    model: str
    default: str
    takes: str
    meaning: str

    @property
    def key(self) -> str:
        """Table and name, as `--set` takes them: "train.batch_size"."""
        return f"{self.table}.{self.name}"


def describe_settings() -> list[Setting]:
    """Every key, table by table; of `model` first those that all models share, then those of each one."""
    of_models = {name: _table("model", owner) for name, owner in all_configurations().items()}
    first, *others = of_models.values()
    shared = [one for one in first if all(one in settings for settings in others)]
    own = [replace(one, model=name) for name, settings in of_models.items() for one in settings if one not in shared]
    rest = {"data": DataConfig, "train": TrainConfig, "prune": PruneConfig}
    return [*shared, *own, *(one for name, owner in rest.items() for one in _table(name, owner))]


def _table(table: str, owner: type[Any]) -> list[Setting]:
    """The keys that a dataclass holds."""
    types, meanings = get_type_hints(owner), _meanings(owner)
    settings = []
    for entry in fields(owner):
        default, takes = _default(entry), _alternatives(types[entry.name])
        if (table, entry.name) == ("model", "name"):  # each model's own class knows no name but its own
            default, takes = json.dumps(DEFAULT_MODEL), [json.dumps(name) for name in all_configurations()]
        settings.append(Setting(table, entry.name, "", default, _join(takes), meanings.get(entry.name, "")))
    return settings


def _default(entry: Field[Any]) -> str:
    assert entry.default is not MISSING, entry.name
    return "" if entry.default is None else json.dumps(entry.default, ensure_ascii=False)


def _alternatives(kind: Any) -> list[str]:
    """What a type takes, one entry for each alternative; None, which leaves a key out, is none."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return [json.dumps(part) for part in parts]
    if get_origin(kind) is tuple:
        start = "a list of" if parts[-1] is Ellipsis else _COUNTS[len(parts)]
        return [f"{start} {_MANY[parts[0]]} in [ ]"]
    if parts:
        return [words for part in parts if part is not NoneType for words in _alternatives(part)]
    return [_WORDS[kind]]


def _join(words: Sequence[str]) -> str:
    *start, last = words
    return f"{', '.join(start)} or {last}" if start else last


def _meanings(owner: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and of those that it extends say of each attribute, as one line."""
    found: dict[str, str] = {}
    for kind in reversed(owner.__mro__):
        attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")[2]
        for entry in re.split(r"(?m)^ {4}(?=\w)", attributes)[1:]:
            names, _, meaning = entry.partition(":")
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found
