"""Names of splits and classes as people write them: which mean the same, and which only look alike."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

from protokern.data.class_names import composed

# Names of splits, in any case; the first one is ours.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing"),
}
_IGNORED_FILES = ("thumbs.db", "desktop.ini")
_SAME_SHAPE = str.maketrans({"0": "o", "1": "l", "I": "l", "|": "l", "5": "s"})
_CLOSE = 0.65  # so that va1, tets and trian are close to what they should be


def split_of(name: str) -> str | None:
    """The split that a folder, a tar file or a table of this name holds; None: not a name of a split."""
    folded = name.strip().casefold()
    return next((split for split, names in SPLIT_NAMES.items() if folded in names), None)


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is not the user's."""
    return name.startswith(".") or name.lower() in _IGNORED_FILES


def similar_split(name: str, missing: Iterable[str]) -> str | None:
    """The split among `missing` that `name` most likely means."""
    known = [one for split in missing for one in SPLIT_NAMES[split]]
    folded = name.strip().translate(_SAME_SHAPE).casefold()
    close = difflib.get_close_matches(folded, known, n=1, cutoff=_CLOSE)
    return split_of(close[0]) if close else None


def alike(one: str, other: str) -> str | None:
    """How two names differ that people would read as the same; None if they look different.

    The form of an accent (NFC or NFD) does not count.
    """
    one, other = composed(one), composed(other)
    if one == other:
        return None
    if one.split() == other.split() or "".join(one.split()) == "".join(other.split()):
        return "in spaces"
    if _visible(one) == _visible(other):
        return "in characters that cannot be seen"
    if one.casefold() == other.casefold():
        return "in case"
    if _shape(one) == _shape(other):
        return "in characters that look alike"
    if abs(len(one) - len(other)) <= 1 and min(len(one), len(other)) >= 4 and _one_edit(one, other):
        return "in one character"
    return None


def name_pairs_alike(ones: Sequence[str], others: Sequence[str], limit: int = 5) -> str:
    """Pairs of names that look alike, in words, both written so that the difference shows; empty if there are none."""
    pairs = [(one, other, alike(one, other)) for one in ones for other in others]
    told = [f"{show(one)} and {show(other)} differ {how}" for one, other, how in pairs if how is not None]
    return "; ".join(told[:limit])


def pairs_within(names: Sequence[str], limit: int = 5) -> str:
    """Names of one list that differ only in invisible characters or in case, in words; empty if there are none."""
    told: list[str] = []
    first_of: dict[str, str] = {}
    for name in names:
        key = _shape("".join(_visible(name).split()))
        before = first_of.setdefault(key, name)
        how = alike(before, name)
        if how is not None and how != "in one character":
            told.append(f"{show(before)} and {show(name)} differ {how}")
    return "; ".join(told[:limit])


def show(name: str) -> str:
    """A name in quotes, with invisible characters written out."""
    plain = all(letter.isprintable() for letter in name) and unicodedata.is_normalized("NFC", name)
    return repr(name) if plain and _visible(name) == name else ascii(name)


def _visible(name: str) -> str:
    return "".join(letter for letter in name if unicodedata.category(letter) not in ("Cf", "Cc"))


def _shape(name: str) -> str:
    return unicodedata.normalize("NFKC", name).translate(_SAME_SHAPE).casefold().replace("l", "i")


def _one_edit(one: str, other: str) -> bool:
    """Whether one inserted, deleted, changed or swapped character makes the names the same."""
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if len(one) == len(other):
        swapped = one[start + 1 : start + 2] + one[start : start + 1] + one[start + 2 :]
        return one[start + 1 :] == other[start + 1 :] or swapped == other[start:]
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return longer[start + 1 :] == shorter[start:]
