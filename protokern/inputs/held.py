"""Maps of a backbone that a program holds itself, in memory or in a store, as a data set for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from protokern.inputs.loaders import StoredImages


class Maps(Protocol):
    """Maps that can be read by position; a `FeatureStore` is such."""

    def __len__(self) -> int: ...

    def read(self, index: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, C, H, W)."""
        ...


@dataclass(frozen=True, slots=True)
class MapsInMemory:
    """Maps (N, C, H, W) of any floating type."""

    maps: Tensor

    def __len__(self) -> int:
        return len(self.maps)

    def read(self, index: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """The maps of some images, (B, C, H, W)."""
        return self.maps[list(index)].to(dtype)


class HeldMaps:
    """Some of the maps, with their labels; what `StoredImages` reads.

    Args:
        maps: of all images.
        index: positions of those that belong to this data set.
        labels: class indices of these, (len(index),) int64.
    """

    def __init__(self, maps: Maps, index: Sequence[int], labels: Tensor) -> None:
        self.maps, self.index, self.labels = maps, list(index), labels

    def __len__(self) -> int:
        return len(self.index)

    def read(self, index: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """The maps of some images, (B, C, H, W), by their positions in this data set."""
        return self.maps.read([self.index[one] for one in index], dtype)


@dataclass(slots=True)
class NamelessImages:
    """What stands for the images of maps whose images are unknown; they are called by their numbers."""

    index: Sequence[int]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise ValueError(f"image {self.index[index]}: is not at hand, only its maps are.")

    def sample_name(self, index: int) -> str:
        """Its number among all maps."""
        return str(self.index[index])

    def source_path(self, index: int) -> Path | None:
        return None

    def transform(self) -> str:
        return "unknown"

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: maps are of un-augmented images."""


def held_images(maps: Maps, index: Sequence[int], labels: Sequence[int]) -> StoredImages:
    """A data set of some of the maps, `labels` in the order of `index`."""
    held = HeldMaps(maps, index, torch.tensor(labels, dtype=torch.int64))
    return StoredImages(held, NamelessImages(list(index), list(labels)))


@dataclass(frozen=True, slots=True)
class HeldSplits:
    """Training and validation maps; nothing is tested."""

    train: StoredImages
    val: StoredImages
    notes: tuple[str, ...] = ()

    @property
    def push(self) -> StoredImages:
        """The same as `train`: nothing is augmented."""
        return self.train

    @property
    def test(self) -> StoredImages:
        """The same as `val`, since what is tested chooses nothing."""
        return self.val
