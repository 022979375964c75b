"""Why one class and not another: the difference of their points, prototype by prototype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from protokern.results.explanations import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastRow:
    """What one prototype says for a class rather than another: similarity x (weight - other weight) = difference.

    Attributes:
        evidence: of the first class, with the place where the prototype looked.
        weight_a, weight_b: of the prototype for the two classes.
        points_a, points_b: similarity x weight.
    """

    evidence: Evidence
    weight_a: float
    weight_b: float
    points_a: float
    points_b: float

    @property
    def difference(self) -> float:
        """Above 0, it speaks for the first class rather than the second."""
        return self.points_a - self.points_b


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Why class `a` and not class `b`, for one image.

    Attributes:
        a, b: names of the classes.
        total_a, total_b: what the points of each add up to, with its bias.
        probability_a, probability_b: of the two among all classes, in [0, 1].
        rows: prototypes by falling size of their difference.
        other_difference: of all other prototypes together.
        num_other: number of the prototypes that `rows` leaves out and that say something.
        bias: difference of the biases of the two classes, 0 without any.
        name: of the image; empty if it was not given.
        image: (Y, X, 3) uint8.
        model_name: of the model; empty if it was not given.
        is_focal, is_salient, is_projected: see `Explanation`.
        has_exemplars: prototypes are shown by patches that they are not.
    """

    a: str
    b: str
    total_a: float
    total_b: float
    probability_a: float
    probability_b: float
    rows: tuple[ContrastRow, ...]
    other_difference: float
    num_other: int
    bias: float
    name: str
    image: np.ndarray
    model_name: str
    is_focal: bool = False
    is_salient: bool = False
    is_projected: bool = False
    has_exemplars: bool = False

    @property
    def difference(self) -> float:
        """Total of `a` minus total of `b`: the sum of all differences."""
        return self.total_a - self.total_b

    def to_dict(self) -> dict[str, Any]:
        """All numbers, without pictures."""
        return {
            "image": self.name,
            "a": self.a,
            "b": self.b,
            "total_a": self.total_a,
            "total_b": self.total_b,
            "difference": self.difference,
            "prototypes": [_row_table(row) for row in self.rows],
            "other_difference": self.other_difference,
            "num_other": self.num_other,
            "bias": self.bias,
        }


def _row_table(row: ContrastRow) -> dict[str, Any]:
    card = row.evidence.prototype
    return {
        "prototype": row.evidence.view.prototype,
        "prototype_classes": [one.class_name for one in card.classes],
        "similarity": row.evidence.similarity,
        "weight_a": row.weight_a,
        "weight_b": row.weight_b,
        "points_a": row.points_a,
        "points_b": row.points_b,
        "difference": row.difference,
        "patch": row.evidence.view.patch,
        "patch_box": row.evidence.view.patch_box,
        "source": card.source_name,
    }
