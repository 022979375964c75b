"""How many images a training will have to learn from, and of how many classes, without opening an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from protokern.data.account import PassedOver
from protokern.data.layout import ALL, find_images
from protokern.data.places import HUGGINGFACE, WEBDATASET, is_photo_folder

if TYPE_CHECKING:
    from protokern.data.sources import BirdCounts


@dataclass(frozen=True, slots=True)
class Amount:
    """What a data set has.

    Attributes:
        images: files to learn from, before some are held out for validation; unreadable ones count.
        classes: number of classes.
        total: files of all splits.
    """

    images: int
    classes: int
    total: int


def count_images(path: str, *, test_fraction: float, birds: BirdCounts) -> Amount:
    """Count the images of the data at `path`.

    Args:
        path: as `data.path` has it.
        test_fraction: share of the images of a folder without splits that will be the test.
        birds: how many synthetic birds there are, if `path` means them.

    Raises:
        DataError: the data cannot be used.
    """
    kind, _, rest = path.partition(":")
    if is_photo_folder(path):
        return count_folder(Path(path), test_fraction)
    if kind not in (WEBDATASET, HUGGINGFACE):
        a_class = birds.train_per_class + birds.val_per_class + birds.test_per_class
        return Amount(birds.num_classes * birds.train_per_class, birds.num_classes, birds.num_classes * a_class)
    from protokern.data.hub import open_hub
    from protokern.data.shards import open_shards

    source = open_shards(Path(rest)) if kind == WEBDATASET else open_hub(rest)
    counts = {name: len(split.samples) for name, split in source.splits.items()}
    return Amount(max(1, counts.get("train", 0)), max(1, len(source.classes)), sum(counts.values()))


def count_folder(root: Path, test_fraction: float) -> Amount:
    """Count the images of a folder of photographs; arguments and errors as in `count_images`."""
    found = find_images(root, PassedOver())
    counts = {name: len(samples) for name, samples in found.samples.items()}
    if ALL in counts:
        images = counts[ALL] - round(test_fraction * counts[ALL])
        return Amount(max(1, images), len(found.classes), counts[ALL])
    return Amount(counts["train"], len(found.classes), sum(counts.values()))
