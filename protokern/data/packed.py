"""Images that lie in larger files: their bytes are found by position, so that any image can be read at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protokern.data.augment import Augmentation, find_augmentation
from protokern.data.dataset import ImageDataset
from protokern.data.decode import MAX_PIXELS, ImageHeader, most_bytes, parse_image_size, read_header, read_photo
from protokern.data.folder import hold_out
from protokern.data.photos import AUGMENTATION_MARGIN
from protokern.data.splits import Splits
from protokern.errors import DataError

# (name, class index) of an image; the name is a path of its own, which need not be a file.
Sample = tuple[Path, int]


@dataclass(frozen=True, slots=True)
class PackedSplit:
    """One split of a source of packed images.

    Attributes:
        samples: name and class index of every image, the names unique.
        read: the bytes of the image of this name; an image of more bytes than the number given is refused.
        file_of: the file that holds the image of this name; None where there is no such file to look at.
        origin: what tells these images from others of the same names that are in no file, in words; empty: nothing.
    """

    samples: Sequence[Sample]
    read: Callable[[Path, int], bytes]
    file_of: Callable[[Path], Path | None]
    origin: str = ""


@dataclass(frozen=True, slots=True)
class PackedSource:
    """Where packed images are.

    Attributes:
        name: of the source, for people.
        splits: "train", "test" and perhaps "val"; others are not read.
        classes: class names.
        advice: what to do where it has no images, for people.
    """

    name: str
    splits: dict[str, PackedSplit]
    classes: list[str]
    advice: str


class PackedPhotos(ImageDataset):
    """Photographs in larger files; otherwise as `PhotoDataset`.

    Args:
        split: where they are.
        samples: which of them.
        classes: class names.
        image_size: pixels, one number or (rows, columns).
        augmentation: "none", "protopnet", "crop" or an Augmentation.
        seed: chooses the random views.
        cache: "none" decodes at each access; "memory" keeps the decoded pixels, 3 bytes a pixel.
        max_pixels: of an image; one with more is refused.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        split: PackedSplit,
        samples: Sequence[Sample],
        classes: Sequence[str],
        *,
        image_size: int | tuple[int, int],
        augmentation: str | Augmentation | None = "none",
        seed: int = 0,
        cache: str = "none",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(
            labels=[label for _, label in samples],
            classes=classes,
            image_size=parse_image_size(image_size),
            augmentation=find_augmentation(augmentation),
            augmentation_margin=AUGMENTATION_MARGIN,
            seed=seed,
            cache=cache,
        )
        self._split = split
        self._max_pixels = max_pixels
        self._names = [name for name, _ in samples]

    def render(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Decode the photograph; raises DataError when it is damaged."""
        name = self._names[index]
        content = self._split.read(name, most_bytes(self._max_pixels))
        return read_photo(name, size, max_pixels=self._max_pixels, content=content)

    def sample_name(self, index: int) -> str:
        return self._names[index].as_posix()

    def source_path(self, index: int) -> Path | None:
        return self._split.file_of(self._names[index])

    def content(self, index: int) -> bytes | None:
        try:
            return self._split.read(self._names[index], most_bytes(self._max_pixels))
        except DataError:
            return None

    def header(self, index: int) -> ImageHeader | None:
        content = self.content(index)
        return None if content is None else read_header(self._names[index], content=content)

    def transform(self) -> str:
        origin = self._split.origin
        return f"{super().transform()}, {origin}" if origin else super().transform()


def make_splits(
    source: PackedSource,
    *,
    image_size: int | tuple[int, int],
    val_fraction: float,
    seed: int,
    augmentation: str | Augmentation | None,
    on_unreadable: str,
    cache: str,
    max_image_pixels: int,
) -> Splits:
    """The data sets of a run; see `open_splits` for the arguments.

    Images are not looked at before training; one that cannot be read stops it then.

    Raises:
        DataError: a split or a class has no images, or unreadable ones are to be skipped.
    """
    if on_unreadable != "stop":
        raise DataError(
            f'data.on_unreadable: must be "stop" with {source.name}, whose images are not decoded before training; '
            f"got {on_unreadable!r}. Leave damaged images out when the files are made."
        )
    found, classes = dict(source.splits), source.classes
    missing = [name for name in ("train", "test") if not (name in found and found[name].samples)]
    if missing:
        raise DataError(
            f"data: must have images in train and test; {source.name} has none in {' and '.join(missing)}. "
            f"{source.advice}"
        )
    samples = {name: list(split.samples) for name, split in found.items()}
    _check_labels(samples, classes, source.name)
    counts = f"{len(samples['train'])} training and {len(samples['test'])} test images"
    notes = [f"{source.name}: {counts}, read when needed"]
    if not samples.get("val"):
        samples["train"], samples["val"], note = hold_out(samples["train"], classes, val_fraction, seed)
        found["val"] = found["train"]
        notes.append(note.removeprefix("no folder val/: "))
    train, val, test = (
        PackedPhotos(
            found[name],
            samples[name],
            classes,
            image_size=image_size,
            augmentation=augmentation if name == "train" else None,
            seed=seed,
            cache=cache,
            max_pixels=max_image_pixels,
        )
        for name in ("train", "val", "test")
    )
    return Splits(train, train.without_augmentation(), val, test, classes, tuple(notes))


def _check_labels(samples: dict[str, list[Sample]], classes: Sequence[str], source: str) -> None:
    for split, some in samples.items():
        outside = [name for name, label in some if not 0 <= label < len(classes)]
        if outside:
            raise DataError(
                f"data: must have class indices of 0 .. {len(classes) - 1}; {source} has another one at {outside[0]} "
                f"in {split}. Correct it, or name all classes."
            )
    without = sorted({*range(len(classes))} - {label for _, label in samples["train"]})
    if without or len(classes) < 2:
        names = ", ".join(classes[label] for label in without[:5]) or "a second one"
        raise DataError(f"data: must have training images of each of two or more classes; {source} lacks {names}.")
