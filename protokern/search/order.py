"""Entries in the order of (distance, image, patch): the first ones of a batch, and the first ones of two lists."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers in one scratch tensor of the comparison of copies.
_BUDGET = 1 << 24


@dataclass(frozen=True)
class Entries:
    """Lists of patches, one list per prototype, each nearest first; missing entries (distance inf, image -1) are last.

    Attributes:
        distance: (P, m).
        image: (P, m) int64.
        patch: (P, m) int64.
        label: (P, m) int64; None while only the image is known.
        vector: (P, m, D, h, w); None unless asked for.
    """

    distance: Tensor
    image: Tensor
    patch: Tensor
    label: Tensor | None = None
    vector: Tensor | None = None

    def take(self, position: Tensor) -> Entries:
        """The entries at `position` (P, n) of every list."""
        return Entries(
            self.distance.gather(1, position),
            self.image.gather(1, position),
            self.patch.gather(1, position),
            None if self.label is None else self.label.gather(1, position),
            None if self.vector is None else _take_rows(self.vector, position),
        )

    def rows(self, index: Tensor) -> Entries:
        """The lists of some prototypes."""
        return Entries(
            self.distance[index],
            self.image[index],
            self.patch[index],
            None if self.label is None else self.label[index],
            None if self.vector is None else self.vector[index],
        )

    def without(self, is_dropped: Tensor) -> Entries:
        """The same entries with those in (P, m) marked as missing, in place."""
        label, vector = self.label, self.vector
        return Entries(
            self.distance.masked_fill(is_dropped, torch.inf),
            self.image.masked_fill(is_dropped, -1),
            self.patch.masked_fill(is_dropped, -1),
            None if label is None else label.masked_fill(is_dropped, -1),
            None if vector is None else vector.masked_fill(is_dropped[..., None, None, None], 0),
        )


def first_positions(distance: Tensor, k: int) -> Tensor:
    """Positions (P, min(k, m)) of the smallest of `distance` (P, m), ascending; equal ones in their order.

    One number holds distance and position: the bits of a float32 that is not negative are ordered as it is, and those
    of a negative one the other way round. So the smallest numbers are the answer, whatever `topk` does with ties, and
    nothing is sorted but what is taken.
    """
    length = distance.shape[1]
    k = min(k, length)
    if distance.dtype != torch.float32 or length >= 1 << 31:
        return distance.sort(dim=1, stable=True).indices[:, :k]
    position = torch.arange(length, device=distance.device)
    bits = (distance + 0.0).view(torch.int32)  # -0 becomes 0, which it equals
    key = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64) << 32) | position
    smallest = key.amin(dim=1, keepdim=True) if k == 1 else key.topk(k, dim=1, largest=False).values
    return smallest & 0xFFFFFFFF


def merge(old: Entries, new: Entries, k: int, distinct: bool) -> Entries:
    """The first k of two lists of every prototype, whose images differ.

    With `distinct` an entry whose vector equals that of an earlier one, bit for bit, is dropped; within one list there
    must be no such entry.
    """
    if k == 1:
        return _nearer(old, new)
    both = Entries(
        torch.cat([old.distance, new.distance], dim=1),
        torch.cat([old.image, new.image], dim=1),
        torch.cat([old.patch, new.patch], dim=1),
        _joined(old.label, new.label),
        _joined(old.vector, new.vector),
    )
    # Each list has its patches of one image in order already, and a stable sort keeps them so.
    by_image = both.image.sort(dim=1, stable=True).indices
    by_distance = both.distance.gather(1, by_image).sort(dim=1, stable=True).indices
    order = by_image.gather(1, by_distance)
    if not distinct:
        return both.take(order[:, :k])
    both = both.take(order)
    both = both.without(_is_copy(both))
    return both.take(both.distance.sort(dim=1, stable=True).indices[:, :k])


def _nearer(old: Entries, new: Entries) -> Entries:
    """The nearer one of two entries of every prototype; of equally near ones that of the first image."""
    is_tie = new.distance == old.distance
    is_new = (new.distance < old.distance) | (is_tie & (new.image < old.image))  # (P, 1)
    return Entries(
        torch.where(is_new, new.distance, old.distance),
        torch.where(is_new, new.image, old.image),
        torch.where(is_new, new.patch, old.patch),
        None if old.label is None or new.label is None else torch.where(is_new, new.label, old.label),
        None
        if old.vector is None or new.vector is None
        else torch.where(is_new[..., None, None, None], new.vector, old.vector),
    )


def _joined(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    return None if old is None or new is None else torch.cat([old, new], dim=1)


def _take_rows(vector: Tensor, position: Tensor) -> Tensor:
    """Vectors (P, n, ...) at `position` (P, n) of `vector` (P, m, ...)."""
    return vector[torch.arange(len(position), device=position.device)[:, None], position]


def _is_copy(entries: Entries) -> Tensor:
    """Whether an earlier entry of the same list has the same vector, (P, m) bool. Copies are equally far away."""
    assert entries.vector is not None
    distance, bits = entries.distance, as_bits(entries.vector.flatten(2))  # (P, m), (P, m, D h w)
    length = distance.shape[1]
    is_copy = torch.zeros_like(distance, dtype=torch.bool)
    step = max(1, _BUDGET // (length * length))
    for start in range(0, len(distance), step):
        part = distance[start : start + step]
        is_tie = (part[:, :, None] == part[:, None, :]) & part.isfinite()[:, :, None]
        row, later, earlier = is_tie.tril(-1).nonzero(as_tuple=True)
        row = row + start
        equal = (bits[row, later] == bits[row, earlier]).all(dim=1)
        is_copy[row[equal], later[equal]] = True
    return is_copy


def as_bits(vectors: Tensor) -> Tensor:
    """Floating-point numbers as whole numbers of the same bits, so that 0 differs from -0 and NaN equals itself."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[vectors.element_size()]
    return vectors.contiguous().view(kind)
