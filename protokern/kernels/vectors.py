"""Patches and prototypes as vectors that are ready for a metric."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Vectors(NamedTuple):
    """Vectors made ready for a metric; `...` are any leading dimensions.

    values: (..., K), the vectors, or unit vectors where the metric takes those; NaN in all of a row that is not finite.
    norm: (...), Euclidean norm of what is divided by it; ones for vectors that stay as they are.
    is_zero: (...), True for a zero vector that is to be divided by its norm.
    is_finite: (...), False where any component was inf or NaN.
    """

    values: Tensor
    norm: Tensor
    is_zero: Tensor
    is_finite: Tensor

    def select(self, index: tuple[slice | None, ...]) -> Vectors:
        """Views of the vectors at an index of the leading dimensions."""
        return Vectors(*(field[index] for field in self))

    def take(self, row: Tensor) -> Vectors:
        """Copies of the vectors at `row`, any shape of indices into the flattened leading dimensions."""
        index = row.flatten()
        values = self.values.flatten(0, -2).index_select(0, index).unflatten(0, row.shape)
        return Vectors(values, *(field.flatten().index_select(0, index).view(row.shape) for field in self[1:]))
