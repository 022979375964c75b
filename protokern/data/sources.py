"""Opens the data of a run: a folder of photographs, packed images, or the synthetic birds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from protokern.data.augment import Augmentation, find_augmentation
from protokern.data.birds import SyntheticBirds
from protokern.data.dataset import OwnSplit, Splits
from protokern.data.decode import MAX_PIXELS, ReadOptions, parse_image_size
from protokern.data.folder import open_photo_folder
from protokern.data.grey import AUTO, GreyRange
from protokern.data.hub import open_hub
from protokern.data.packed import make_splits
from protokern.data.places import HUGGINGFACE, SYNTHETIC_BIRDS, WEBDATASET
from protokern.data.shards import open_shards


@dataclass(frozen=True, slots=True, kw_only=True)
class BirdCounts:
    """The number of synthetic birds, and how their classes differ; see `SyntheticBirds`."""

    num_classes: int = 10
    train_per_class: int = 100
    val_per_class: int = 20
    test_per_class: int = 30
    differ_in: str = "species"


def open_splits(
    root: Path | str | None,
    *,
    image_size: int | tuple[int, int],
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    augmentation: str | Augmentation | None = "protopnet",
    on_unreadable: str = "stop",
    cache: str = "none",
    max_image_pixels: int = MAX_PIXELS,
    channels: int = 3,
    grey_range: GreyRange = AUTO,
    checked_part: tuple[int, int] = (0, 1),
    birds: BirdCounts | None = None,
    own_split: OwnSplit | None = None,
) -> Splits:
    """Open a data folder, packed images, or the synthetic birds for None or "synthetic-birds".

    Args:
        root: the data folder; "webdataset:DIR", tar files; "huggingface:NAME", a data set of that name or in that
            folder; None or "synthetic-birds", painted birds, which need no files.
        image_size: pixels, one number or (rows, columns).
        val_fraction: of a folder without val/: the share of train/ that is held out, in (0, 1).
        test_fraction: of a folder of class folders alone: the share of each that becomes the test split, in (0, 1).
        seed: chooses the held-out images, the random views and which birds are painted.
        augmentation: of the training images: "none", "protopnet", "crop" or an Augmentation.
        on_unreadable: files that cannot be read: "stop" or "skip".
        cache: "none", or "memory" to keep decoded photographs. Birds are always kept.
        max_image_pixels: limit of pixels; a file with more is refused before it is decoded.
        channels: channels of the images, see `load_image`.
        grey_range: see `load_image`; "auto" is measured over the training images and returned in the result.
        checked_part: (n, of): decode only every of-th file of a folder before training, see `open_photo_folder`.
        birds: how many synthetic birds; None for `BirdCounts()`.
        own_split: how a folder of class folders alone was split before; None: split it now.

    Raises:
        DataError: the folder is unusable; the message says what to do.
        ValueError: an argument is out of range.
    """
    reading = ReadOptions(max_pixels=max_image_pixels, channels=channels, grey_range=grey_range)
    if root is None or str(root) == SYNTHETIC_BIRDS:
        return _open_birds(birds or BirdCounts(), image_size, seed, augmentation, reading)
    kind, _, rest = str(root).partition(":")
    opener: Callable[..., Splits]
    if kind in (WEBDATASET, HUGGINGFACE):
        opener = partial(make_splits, open_shards(Path(rest)) if kind == WEBDATASET else open_hub(rest))
    else:
        opener = partial(
            open_photo_folder, Path(root), test_fraction=test_fraction, checked_part=checked_part, own_split=own_split
        )
    return opener(
        image_size=parse_image_size(image_size),
        val_fraction=val_fraction,
        seed=seed,
        augmentation=find_augmentation(augmentation),
        on_unreadable=on_unreadable,
        cache=cache,
        reading=reading,
    )


def _open_birds(
    counts: BirdCounts,
    image_size: int | tuple[int, int],
    seed: int,
    augmentation: str | Augmentation | None,
    reading: ReadOptions,
) -> Splits:
    def birds(split: str, images_per_class: int, views: str | Augmentation | None) -> SyntheticBirds:
        return SyntheticBirds(
            split,
            num_classes=counts.num_classes,
            images_per_class=images_per_class,
            image_size=image_size,
            differ_in=counts.differ_in,
            seed=seed,
            augmentation=views,
            channels=reading.channels,
        )

    train = birds("train", counts.train_per_class, augmentation)
    val, test = birds("val", counts.val_per_class, "none"), birds("test", counts.test_per_class, "none")
    kind = f"{counts.num_classes} species"
    if counts.differ_in != "species":
        kind = f"{counts.num_classes} classes that differ in {counts.differ_in} alone"
    note = (
        f"synthetic birds: {kind}, {len(train)} training, {len(val)} validation and "
        f"{len(test)} test pictures, painted from seed {seed}"
    )
    return Splits(train, train.without_augmentation(), val, test, train.classes, (note,), grey_range=reading.grey_range)
