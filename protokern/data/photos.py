"""Photographs from files as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protokern.data.augment import Augmentation, find_augmentation
from protokern.data.dataset import ImageDataset
from protokern.data.decode import (
    DEFAULT,
    ImageHeader,
    ReadOptions,
    describe_ends,
    parse_image_size,
    read_header,
    read_orientation,
    read_pixels,
)

# Crops of half the area enlarge by 1.41; images kept a quarter larger supply most of that from real pixels.
AUGMENTATION_MARGIN = 1.25


class PhotoDataset(ImageDataset):
    """Photographs, resized to one size with an antialiased bilinear filter.

    Args:
        samples: (file, class index) of every image.
        classes: class names.
        root: folder that `sample_name` is relative to.
        image_size: pixels, one number or (rows, columns).
        augmentation: "none", "protopnet", "crop" or an Augmentation.
        seed: chooses the random views.
        cache: "none" decodes at each access; "memory" keeps the decoded pixels, 3 bytes a pixel.
        reading: how files become pixels: most pixels of a file, channels, range of grey values.
        has_deep_images: whether some files have more than 8 bits a channel; the cache then keeps 12 bytes a pixel.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        samples: Sequence[tuple[Path, int]],
        classes: Sequence[str],
        *,
        root: Path,
        image_size: int | tuple[int, int],
        augmentation: str | Augmentation | None = "none",
        seed: int = 0,
        cache: str = "none",
        reading: ReadOptions = DEFAULT,
        has_deep_images: bool = False,
    ) -> None:
        super().__init__(
            labels=[label for _, label in samples],
            classes=classes,
            image_size=parse_image_size(image_size),
            augmentation=find_augmentation(augmentation),
            augmentation_margin=AUGMENTATION_MARGIN,
            seed=seed,
            cache=cache,
            channels=reading.channels,
            has_deep_images=has_deep_images,
        )
        self.samples = list(samples)
        self.root = root
        self._reading = reading

    def render(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Decode the photograph; raises DataError if its file is now missing or damaged."""
        return read_pixels(self.samples[index][0], size, self._reading)

    def sample_name(self, index: int) -> str:
        return self.samples[index][0].relative_to(self.root).as_posix()

    def source_path(self, index: int) -> Path:
        return self.samples[index][0]

    def content(self, index: int) -> bytes | None:
        try:
            return self.samples[index][0].read_bytes()
        except OSError:
            return None

    def header(self, index: int) -> ImageHeader | None:
        return read_header(self.samples[index][0])

    def orientation(self, index: int) -> int:
        return read_orientation(self.samples[index][0])

    def transform(self) -> str:
        return super().transform() + describe_ends(self._reading)
