"""Properties that reveal a class without looking at the image content: size, shape, mode or file format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from protokern.data.decode import ImageHeader

FEWEST = 5  # images of a class: for fewer, a common property has no meaning
SHARE = 0.95  # of a class's images that must have the property; at most the remaining share of the others may
_FEWEST_ORDERED = 8  # images of a class, if its numbers differ but are all above or all below those of the others


@dataclass(frozen=True, slots=True)
class Confound:
    """A property that tells a class from all others.

    Attributes:
        label: the class.
        kind: "size", "shape", "mode" or "format".
        value: what the class's images have, in words.
    """

    label: int
    kind: str
    value: str


def find_confounds(headers: Sequence[ImageHeader | None], labels: Sequence[int], num_classes: int) -> list[Confound]:
    """Classes of which (nearly) all images have a property that (nearly) no image of another class has.

    A class that is listed for its size is not listed again for its shape.

    Args:
        headers: of the images; None: unknown, left out.
        labels: their classes.
        num_classes: K.
    """
    known = [(header, label) for header, label in zip(headers, labels, strict=True) if header is not None]
    found: list[Confound] = []
    for kind, (describe, number) in _PROPERTIES.items():
        values = [describe(header) for header, _ in known]
        numbers = None if number is None else np.array([number(header) for header, _ in known])
        of = np.array([label for _, label in known])
        for label in range(num_classes):
            if kind == "shape" and any(one.label == label and one.kind == "size" for one in found):
                continue
            value = _common_value(values, of == label)
            if value is None and numbers is not None:
                value = _end_of_order(numbers, of == label, *_ENDS[kind])
            if value is not None:
                found.append(Confound(label, kind, value))
    return found


def _common_value(values: Sequence[str], is_of_class: np.ndarray) -> str | None:
    """The value that nearly all images of a class have, if nearly none of the others has it."""
    own = Counter(value for value, inside in zip(values, is_of_class, strict=True) if inside)
    others = Counter(value for value, inside in zip(values, is_of_class, strict=True) if not inside)
    if own.total() < FEWEST or others.total() < FEWEST:
        return None
    value, count = own.most_common(1)[0]
    is_told = count >= SHARE * own.total() and others[value] <= (1 - SHARE) * others.total()
    return value if is_told else None


def _end_of_order(numbers: np.ndarray, is_of_class: np.ndarray, above: str, below: str) -> str | None:
    """Whether nearly all images of a class have larger, or smaller, numbers than nearly all others."""
    own, others = np.sort(numbers[is_of_class]), np.sort(numbers[~is_of_class])
    if len(own) < _FEWEST_ORDERED or len(others) < _FEWEST_ORDERED:
        return None
    spare_own, spare_others = (int((1 - SHARE) * len(one)) for one in (own, others))
    if own[spare_own] > others[-1 - spare_others]:
        return above
    return below if own[-1 - spare_own] < others[spare_others] else None


_Describe = Callable[[ImageHeader], str]
_Number = Callable[[ImageHeader], float]
_PROPERTIES: dict[str, tuple[_Describe, _Number | None]] = {
    "size": (lambda one: f"{one.width} x {one.height} pixels", lambda one: one.width * one.height),
    "shape": (
        lambda one: "square" if one.width == one.height else "wide" if one.width > one.height else "tall",
        lambda one: one.width / one.height,
    ),
    "mode": (lambda one: f"of mode {one.mode}", None),
    "format": (lambda one: f"{one.format} files", None),
}
_ENDS = {
    "size": ("of more pixels", "of fewer pixels"),
    "shape": ("wider for their height", "taller for their width"),
}
