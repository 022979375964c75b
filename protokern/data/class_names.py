"""Class folders of several splits: which are the same class although their names have different bytes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from protokern.errors import DataError


def composed(name: str) -> str:
    """One form for names that look the same: some systems write an accent as a separate character (NFD)."""
    return unicodedata.normalize("NFC", name)


def check_distinct(names: Sequence[str], split: Path) -> None:
    """Raise a DataError if two class folders of a split look the same."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(composed(name), name)
        if other != name:
            raise DataError(
                f"data: must have class folders of different names in {split}; got {other!a} and {name!a}, "
                "which look the same: only the form of an accent differs. Put their images into one of them."
            )


def class_indices(train: Sequence[str], other: Sequence[str]) -> list[int]:
    """The index in `train` of every class of `other`, which has the same classes, possibly in another form."""
    index = {composed(name): number for number, name in enumerate(train)}
    return [index[composed(name)] for name in other]
