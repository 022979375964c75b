"""What a loader may yield: images with labels, in the data set's order or with the index of every image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

# Which patches no prototype may take, (B, H', W') bool: of features (B, D, H, W), with the labels and the positions of
# their images, (B,) int64 on the CPU.
Excluded = Callable[[Tensor, Tensor, Tensor], Tensor]
Loader = Iterable[tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]]

_REORDERING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)


@dataclass(frozen=True)
class Batch:
    """Some images of a data set.

    Attributes:
        images: (B, C, Y, X), on the loader's device.
        labels: (B,) int64 on the CPU.
        index: (B,) int64 on the CPU, which image of the data set each is.
    """

    images: Tensor
    labels: Tensor
    index: Tensor


class Seen:
    """Index and label of all images so far, 16 bytes an image.

    They are in one tensor that doubles when it is full. Small tensors kept from every batch would fragment memory:
    megabytes for every batch.
    """

    def __init__(self) -> None:
        self._table = torch.empty(2, 1024, dtype=torch.int64)
        self._count = 0

    def add(self, batch: Batch) -> None:
        """Remember the images of a batch."""
        start, self._count = self._count, self._count + len(batch.index)
        if self._count > self._table.shape[1]:
            table = torch.empty(2, max(self._count, 2 * self._table.shape[1]), dtype=torch.int64)
            table[:, :start] = self._table[:, :start]
            self._table = table
        self._table[0, start : self._count] = batch.index
        self._table[1, start : self._count] = batch.labels

    def labels_of(self, image: Tensor) -> Tensor:
        """Labels of images of any shape, -1 for image -1.

        Raises:
            ValueError: no image was seen, or one was seen twice.
        """
        if self._count == 0:
            raise ValueError("loader: must yield at least one image; got none. Check the data set.")
        index, order = self._table[0, : self._count].sort()
        twice = index[1:][index[1:] == index[:-1]]
        if len(twice):
            raise ValueError(
                f"loader: must yield every image once; got image {int(twice[0])} twice. Check the order or the shards."
            )
        position = torch.searchsorted(index, image.clamp(min=int(index[0])))
        return torch.where(image >= 0, self._table[1, order[position]], -1)


def read_batches(loader: Loader, num_classes: int, first_image: int) -> Iterator[Batch]:
    """The loader's batches, checked; images without an index count up from `first_image`.

    Raises:
        ValueError: a batch is not what a search accepts.
    """
    sampler = loader.sampler if isinstance(loader, DataLoader) else None
    next_image = first_image
    is_indexed: bool | None = None
    for yielded in loader:
        images, labels, *rest = _check_parts(yielded)
        if is_indexed not in (None, bool(rest)):
            raise ValueError("loader: must yield an image index with every batch or with none; got both. Choose one.")
        is_indexed = bool(rest)
        if rest and first_image:
            raise ValueError(
                f"first_image: must be 0 for batches with an image index; got {first_image}. Leave it out."
            )
        if isinstance(sampler, _REORDERING) and not rest:
            raise ValueError(
                f"loader: must keep the data set's order; got one with a {type(sampler).__name__}. Use shuffle=False, "
                "or yield (images, labels, index)."
            )
        checked = _check_labels(labels, len(images), num_classes)
        if len(checked) == 0:
            continue
        if rest:
            yield Batch(images, checked, _check_index(rest[0], len(images)))
        else:
            yield Batch(images, checked, torch.arange(next_image, next_image + len(images)))
        next_image += len(images)


def _check_parts(yielded: object) -> Sequence[Tensor]:
    """The two or three tensors of what a loader yielded."""
    parts = yielded if isinstance(yielded, (tuple, list)) else ()
    if len(parts) not in (2, 3) or not all(isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts) or f"a {type(yielded).__name__} in place of them"
        raise ValueError(
            f"loader: must yield (images, labels) or (images, labels, index), all tensors; got {kinds}. "
            "Collate batches into tensors."
        )
    return parts


def _check_labels(labels: Tensor, num_images: int, num_classes: int) -> Tensor:
    """The labels as int64 on the CPU."""
    if labels.shape != (num_images,):
        raise ValueError(
            f"loader: must yield one label per image, shape ({num_images},); got {tuple(labels.shape)}. "
            "Yield (images, labels)."
        )
    if labels.is_floating_point():
        raise ValueError(f"loader: must yield labels that are whole numbers; got {labels.dtype}. Yield class indices.")
    labels = labels.to("cpu", torch.int64)
    if num_images == 0:
        return labels
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"loader: must yield labels of 0 .. {num_classes - 1}; got {low} .. {high}. "
            "Use the classes that the model was built for."
        )
    return labels


def _check_index(index: Tensor, num_images: int) -> Tensor:
    """The indices as int64 on the CPU."""
    if index.shape != (num_images,) or index.is_floating_point():
        raise ValueError(
            f"loader: must yield one whole number per image as its index, shape ({num_images},); "
            f"got {tuple(index.shape)} of {index.dtype}. Yield (images, labels, index)."
        )
    index = index.to("cpu", torch.int64)
    if int(index.min()) < 0:
        raise ValueError(f"loader: must yield indices of at least 0; got {int(index.min())}. Count images from 0.")
    return index
