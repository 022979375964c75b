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
    of = np.array([label for _, label in known])
    for kind, (describe, number) in _PROPERTIES.items():
        values = _Values([describe(header) for header, _ in known], of.tolist())
        order = None if number is None else _Order(np.array([number(header) for header, _ in known]), of)
        for label in range(num_classes):
            if kind == "shape" and any(one.label == label and one.kind == "size" for one in found):
                continue
            value = values.common(label)
            if value is None and order is not None:
                value = order.end(label, *_ENDS[kind])
            if value is not None:
                found.append(Confound(label, kind, value))
    return found


class _Values:
    """How often each value of a property comes in every class, and in all."""

    def __init__(self, values: Sequence[str], labels: Sequence[int]) -> None:
        self._all = Counter(values)
        self._of: dict[int, Counter[str]] = {}
        for value, label in zip(values, labels, strict=True):
            self._of.setdefault(label, Counter())[value] += 1

    def common(self, label: int) -> str | None:
        """The value that nearly all images of a class have, if nearly none of the others has it."""
        own = self._of.get(label, Counter())
        num_others = self._all.total() - own.total()
        if own.total() < FEWEST or num_others < FEWEST:
            return None
        value, count = own.most_common(1)[0]
        is_told = count >= SHARE * own.total() and self._all[value] - count <= (1 - SHARE) * num_others
        return value if is_told else None


class _Order:
    """The numbers of all images in ascending order, with the labels of the images."""

    def __init__(self, numbers: np.ndarray, labels: np.ndarray) -> None:
        order = np.argsort(numbers)
        self._numbers, self._labels = numbers[order], labels[order]
        self._counts = Counter(labels.tolist())

    def end(self, label: int, above: str, below: str) -> str | None:
        """Whether nearly all images of a class have larger, or smaller, numbers than nearly all others."""
        count = self._counts[label]
        if count < _FEWEST_ORDERED or len(self._labels) - count < _FEWEST_ORDERED:
            return None
        is_own = self._labels == label
        own, others = self._numbers[is_own], self._numbers[~is_own]
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
