"""Images inside larger files: their bytes are found by position, so that any image can be read at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from protokern.data.account import PassedOver, describe_account
from protokern.data.augment import Augmentation
from protokern.data.dataset import ImageDataset, Sample, Splits
from protokern.data.decode import (
    ImageHeader,
    ReadOptions,
    describe_ends,
    inspect_photo,
    is_deep_photo,
    most_bytes,
    read_header,
    read_orientation,
    read_pixels,
)
from protokern.data.grey import AUTO, Values, describe_range, measure_range
from protokern.data.names import SPLIT_NAMES
from protokern.data.own_split import hold_out
from protokern.data.photos import AUGMENTATION_MARGIN
from protokern.errors import DataError

_NUM_MEASURED = 512  # images that are read before training to measure the range of grey values


@dataclass(frozen=True, slots=True)
class PackedSplit:
    """One split of a source of packed images.

    Attributes:
        samples: name and class index of every image, the names unique.
        read: the bytes of the image of this name; an image with more bytes than the given number is refused.
        file_of: the file that holds the image of this name; None if there is none.
        origin: for images without files, what distinguishes them from others of the same names, in words; may be empty.
    """

    samples: Sequence[Sample]
    read: Callable[[Path, int], bytes]
    file_of: Callable[[Path], Path | None]
    origin: str = ""


@dataclass(frozen=True, slots=True)
class PackedSource:
    """A source of packed images.

    Attributes:
        name: of the source, for people.
        splits: "train", "test" and perhaps "val"; others are not read.
        classes: class names.
        advice: what to do if it has no images, for people.
        noun: what is counted, such as "rows of huggingface:NAME".
        passed: what does not count.
    """

    name: str
    splits: dict[str, PackedSplit]
    classes: list[str]
    advice: str
    noun: str
    passed: PassedOver


class PackedPhotos(ImageDataset):
    """Photographs in larger files; otherwise like `PhotoDataset`.

    Args:
        split: the split of the source.
        samples: its samples to use.
        classes: class names.
        image_size: (rows, columns), pixels.
        augmentation: None for none.
        seed, cache, reading, has_deep_images: as there.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        split: PackedSplit,
        samples: Sequence[Sample],
        classes: Sequence[str],
        *,
        image_size: tuple[int, int],
        augmentation: Augmentation | None,
        seed: int,
        cache: str,
        reading: ReadOptions,
        has_deep_images: bool,
    ) -> None:
        super().__init__(
            labels=[label for _, label in samples],
            classes=classes,
            image_size=image_size,
            augmentation=augmentation,
            augmentation_margin=AUGMENTATION_MARGIN,
            seed=seed,
            cache=cache,
            channels=reading.channels,
            has_deep_images=has_deep_images,
        )
        self._split = split
        self._reading = reading
        self._names = [name for name, _ in samples]

    def render(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Decode the photograph; raises DataError if it is damaged."""
        name = self._names[index]
        content = self._split.read(name, most_bytes(self._reading.max_pixels))
        return read_pixels(name, size, self._reading, content)

    def sample_name(self, index: int) -> str:
        return self._names[index].as_posix()

    def source_path(self, index: int) -> Path | None:
        return self._split.file_of(self._names[index])

    def content(self, index: int) -> bytes | None:
        try:
            return self._split.read(self._names[index], most_bytes(self._reading.max_pixels))
        except DataError:
            return None

    def header(self, index: int) -> ImageHeader | None:
        content = self.content(index)
        return None if content is None else read_header(self._names[index], content=content)

    def orientation(self, index: int) -> int:
        content = self.content(index)
        return 1 if content is None else read_orientation(self._names[index], content=content)

    def transform(self) -> str:
        origin = self._split.origin
        words = super().transform() + describe_ends(self._reading)
        return f"{words}, {origin}" if origin else words


def make_splits(
    source: PackedSource,
    *,
    image_size: tuple[int, int],
    val_fraction: float,
    seed: int,
    augmentation: Augmentation | None,
    on_unreadable: str,
    cache: str,
    reading: ReadOptions,
) -> Splits:
    """The data sets of a run; see `open_splits` for the arguments.

    Images are not read before training, except some to measure the range of grey values; an unreadable image stops the
    training.

    Raises:
        DataError: a split or a class has no images, or on_unreadable is "skip".
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
    notes = []
    if not samples.get("val"):
        samples["train"], samples["val"], note = hold_out(samples["train"], classes, val_fraction, seed)
        found["val"] = found["train"]
        notes.append(note.removeprefix("no folder val/: "))
    counts = {name: len(samples[name]) for name in SPLIT_NAMES}
    account = describe_account(counts, source.passed, noun=source.noun) + "; read when needed"
    reading, ranges = _settle_range(found["train"], samples["train"], reading)
    train, val, test = (
        PackedPhotos(
            found[name],
            samples[name],
            classes,
            image_size=image_size,
            augmentation=augmentation if name == "train" else None,
            seed=seed,
            cache=cache,
            reading=reading,
            has_deep_images=bool(ranges),
        )
        for name in SPLIT_NAMES
    )
    notes = [account, *notes, *ranges]
    return Splits(train, train.without_augmentation(), val, test, classes, tuple(notes), grey_range=reading.grey_range)


def _settle_range(split: PackedSplit, samples: Sequence[Sample], reading: ReadOptions) -> tuple[ReadOptions, list[str]]:
    """The options, with the range of grey values measured over some images if it was "auto"; and lines for the log."""
    if reading.grey_range != AUTO:
        return reading, []
    deep: list[Values] = []
    chosen = samples[:: max(1, -(-len(samples) // _NUM_MEASURED))]
    for name, _ in chosen:
        try:
            content = split.read(name, most_bytes(reading.max_pixels))
        except DataError:  # which stops the run when the image's turn comes
            continue
        if is_deep_photo(name, reading, content):
            facts = inspect_photo(name, reading, content)
            deep += [facts.values] if facts.values is not None else []
    measured = measure_range(deep)
    if measured is None:
        return reading, []
    note = describe_range(measured, deep, is_measured=True)
    return replace(reading, grey_range=measured), [f"of {len(chosen):,} training images that were looked at, {note}"]


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
