"""The interface of every image data set of the package: items in [0, 1], plain pictures for people, names and labels.

A subclass says how image `index` looks at a given size (`render`) and what it is called; augmentation, the cache in
memory and threads live here. `Splits` holds the data sets of one run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from protokern.data.augment import Augmentation, draw_quad, warp
from protokern.data.decode import ImageHeader, pixels_to_tensor
from protokern.data.grey import AUTO, GreyRange
from protokern.data.pixels import check_channels, to_display
from protokern.data.views import CHANNELS, draw_views
from protokern.errors import DataError

# (path, class index) of an image; for an image in a larger file the path is only a name.
Sample = tuple[Path, int]

CACHES = ("none", "memory")

# Images warped by one call: few enough to stay in cache, enough to pay for starting torch's threads.
_CHUNK = 32


class ImageDataset(Dataset[tuple[torch.Tensor, int]]):
    """Labelled images of one size; item = ((C, Y, X) float32 in [0, 1], class index).

    With an augmentation, item `i` is a random view that depends on (seed, epoch, i) alone: not on the order of
    access, the number of worker processes or the cache. Call `set_epoch` before each epoch.

    Attributes:
        labels: class index of every image.
        classes: class names; `labels` index into them.
        image_size: (Y, X), pixels.
        channels: C; 3 is RGB.
        views: V, changed copies of an image that make an item, see `with_views`.
    """

    def __init__(
        self,
        *,
        labels: Sequence[int],
        classes: Sequence[str],
        image_size: tuple[int, int],
        augmentation: Augmentation | None,
        augmentation_margin: float,
        seed: int,
        cache: str,
        channels: int = 3,
        has_deep_images: bool = False,
    ) -> None:
        """Set the attributes that all data sets have.

        `augmentation_margin`: how much larger than `image_size` images are kept for augmentation to cut from.
        `has_deep_images`: keep floats in the cache, because some images have more than 8 bits per channel.
        """
        if cache not in CACHES:
            raise ValueError(f"cache: must be one of {', '.join(CACHES)}; got {cache!r}. Choose one of them.")
        if seed < 0:
            raise ValueError(f"seed: must be 0 or more; got {seed}. Choose another seed.")
        self.labels = list(labels)
        self.classes = list(classes)
        self.image_size = image_size
        self.channels = check_channels(channels)
        self.augmentation = augmentation
        self.views = 1
        self.seed = seed
        margin = 1.0 if augmentation is None else augmentation_margin
        self._stored_size = (round(image_size[0] * margin), round(image_size[1] * margin))
        # In shared memory, so that worker processes that live longer than an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._keeps = cache == "memory"
        self._kept_type = np.dtype(np.float32 if has_deep_images else np.uint8)
        self._start_cache()

    def render(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Image `index` at `size` (rows, columns): (Y, X, C) uint8, or float32 in [0, 1] where it has more bits."""
        raise NotImplementedError(f"{type(self).__name__} must say how an image looks: define render().")

    def sample_name(self, index: int) -> str:
        """A short unique name of an image, for people and files: its path within the data folder."""
        raise NotImplementedError(f"{type(self).__name__} must name its images: define sample_name().")

    def source_path(self, index: int) -> Path | None:
        """The file that holds the image; None if it was generated."""
        raise NotImplementedError(f"{type(self).__name__} must say where its images are: define source_path().")

    def content(self, index: int) -> bytes | None:
        """The bytes of the image's file; None if it was generated or can no longer be read."""
        return None

    def header(self, index: int) -> ImageHeader | None:
        """The header of the image's file; None if it was generated or can no longer be read."""
        return None

    def orientation(self, index: int) -> int:
        """The EXIF orientation of the image's file, which is undone as it is read: 1 to 8; 1 is upright."""
        return 1

    def transform(self) -> str:
        """How an image becomes the net's input, without augmentation; different words mean different pixels."""
        rows, columns = self.image_size
        kind = "RGB" if self.channels == 3 else f"{self.channels} channels"
        return f"{rows} x {columns} pixels, antialiased bilinear, {kind} in [0, 1]"

    def set_epoch(self, epoch: int) -> None:
        """Choose which random views the items are; has no effect without augmentation."""
        self._epoch.fill_(epoch)

    def preload(self) -> None:
        """Fill the cache now, if there is one; call it before worker processes start, so that they share it."""
        if self._keeps:
            self._pixels_of([index for index in range(len(self)) if not self._is_kept[index]])

    def without_augmentation(self) -> Self:
        """The same images without augmentation, in the same order; shares the cache if both keep one size."""
        plain = copy(self)
        plain.augmentation, plain.views = None, 1
        if plain._stored_size != plain.image_size:
            plain._stored_size = plain.image_size
            plain._start_cache()
        return plain

    def with_views(self, views: int) -> Self:
        """The same images with `views` views of each, which share the viewpoint and differ in light and colour.

        Items are (V, C, Y, X) then; they depend on (seed, epoch, index) alone.

        Raises:
            DataError: the images are neither grey nor in colour.
        """
        if views > 1 and self.channels not in CHANNELS:
            raise DataError(
                f"data.channels: must be 1 or 3 for a model that learns from {views} views of an image, whose light "
                f"and colours are changed; got {self.channels}."
            )
        several = copy(self)
        several.views = views
        return several

    def display_image(self, index: int) -> np.ndarray:
        """The image as the network sees it without augmentation, in colours for people: (Y, X, 3) uint8."""
        if self._stored_size == self.image_size:
            return to_display(self._pixels(index)).copy()
        return to_display(self.render(index, self.image_size))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        """Several items at once; DataLoader calls this for a batch, and the images are decoded by several threads."""
        positions = [range(len(self.labels))[index] for index in indices]
        items: list[tuple[torch.Tensor, int]] = []
        for start in range(0, len(positions), _CHUNK):
            chunk = positions[start : start + _CHUNK]
            views = self._views(chunk)
            items += [(view, self.labels[index]) for view, index in zip(views, chunk, strict=True)]
        return items

    def _start_cache(self) -> None:
        num_kept = len(self.labels) if self._keeps else 0
        shape = (num_kept, *self._stored_size, self.channels)
        needed = math.prod(shape) * self._kept_type.itemsize
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > memory / 2:
            raise DataError(
                f"cache: must fit into half of this machine's memory of {memory / 1e9:.1f} GB; got {num_kept} images "
                f'that need {needed / 1e9:.1f} GB. Use cache = "none" or a smaller image_size.'
            )
        # Pages that were never written to take no memory.
        self._kept = np.empty(shape, dtype=self._kept_type)
        self._is_kept = np.zeros(num_kept, dtype=bool)

    def _views(self, indices: list[int]) -> torch.Tensor:
        """(B, C, Y, X): the images, each from its random viewpoint of this epoch; several views are (B, V, C, Y, X)."""
        pixels = self._pixels_of(indices)
        if len({one.dtype for one in pixels}) == 1:
            images = pixels_to_tensor(np.stack(pixels))
        else:  # some have more than 8 bits
            images = torch.cat([pixels_to_tensor(np.stack([one])) for one in pixels])
        if self.augmentation is None and self.views == 1:
            return images
        epoch = int(self._epoch)
        rngs = [np.random.default_rng([self.seed, epoch, index]) for index in indices]
        if self.views > 1:
            return draw_views(images, self.augmentation, rngs, self.image_size, self.views)
        assert self.augmentation is not None
        return warp(images, [draw_quad(self.augmentation, rng) for rng in rngs], self.image_size)

    def _pixels_of(self, indices: list[int]) -> list[np.ndarray]:
        is_ready = self._keeps and bool(self._is_kept[indices].all())
        num_threads = min(os.cpu_count() or 1, len(indices), 8)
        if is_ready or num_threads <= 1 or get_worker_info() is not None:
            return [self._pixels(index) for index in indices]
        with ThreadPoolExecutor(num_threads) as pool:
            return list(pool.map(self._pixels, indices))

    def _pixels(self, index: int) -> np.ndarray:
        if not self._keeps:
            return self.render(index, self._stored_size)
        if not self._is_kept[index]:
            pixels = self.render(index, self._stored_size)
            if pixels.dtype != self._kept_type:
                if self._kept_type == np.uint8:
                    return pixels  # the cache would round it
                pixels = pixels / np.float32(255)
            self._kept[index] = pixels
            self._is_kept[index] = True
        return self._kept[index]


@dataclass(frozen=True, slots=True)
class OwnSplit:
    """Which images of a folder are in which split.

    Attributes:
        files: paths within the data folder, by split.
        seed: the seed that drew them.
    """

    files: Mapping[str, tuple[str, ...]]
    seed: int


@dataclass(frozen=True, slots=True)
class Splits:
    """The data sets of one run.

    Attributes:
        train: augmented training images.
        push: the same images in the same order, without augmentation.
        val: images that choose the best epoch.
        test: images for the final accuracy; they choose nothing.
        classes: class names.
        notes: what the user should know about the data, one line each; for the log.
        warnings: reasons against trusting results on these data, see `data_warnings`; None: not checked.
        grey_range: grey range of files with more than 8 bits, given or measured; see `load_image`.
        own_split: how a folder without split folders was split automatically; None for other data.
    """

    train: ImageDataset
    push: ImageDataset
    val: ImageDataset
    test: ImageDataset
    classes: list[str]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] | None = None
    grey_range: GreyRange = AUTO
    own_split: OwnSplit | None = None
