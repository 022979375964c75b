"""The data of a run, opened and checked against its classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from protokern.config import RunConfig
from protokern.data import Splits, SyntheticBirds, open_splits
from protokern.data.amount import Amount, count_images
from protokern.data.annotations import open_annotations
from protokern.data.birds.dataset import BirdTruth
from protokern.data.class_names import composed
from protokern.data.colours import channels_of_rgb
from protokern.data.decode import ReadOptions as ReadOptions
from protokern.data.decode import parse_image_size, pixels_to_tensor, read_image, read_pixels
from protokern.data.given import as_image as as_image
from protokern.data.given import name_of as name_of
from protokern.data.names import name_pairs_alike
from protokern.data.pixels import to_display
from protokern.data.places import folder_of
from protokern.data.regions import PartPoint, Region
from protokern.data.sources import BirdCounts
from protokern.errors import ConfigError, DataError
from protokern.runs.split import read_own_split

RunData = Splits  # what `open_data` returns, for parts that may not import `protokern.data`
_MOST_COLOURS = 4  # RGB and opacity


def open_data(config: RunConfig, checked_part: tuple[int, int] = (0, 1), *, run: Path | None = None) -> Splits:
    """The data sets of a configuration, checked.

    Args:
        config: what to open.
        checked_part: as in `open_splits`.
        run: the run folder, whose split.json says how a folder that holds only class folders was split; None: there is
            no run yet.

    Raises:
        DataError: the data cannot be used.
        CheckpointError: the split.json of the run is broken.
    """
    data = config.data
    return open_splits(
        data.path or None,
        image_size=data.image_size,
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        seed=config.train.seed,
        augmentation=data.augmentation,
        on_unreadable=data.on_unreadable,
        cache=data.cache,
        max_image_pixels=data.max_image_pixels,
        channels=data.channels,
        grey_range=data.grey_range,
        checked_part=checked_part,
        birds=_birds(config),
        own_split=None if run is None else read_own_split(run),
    )


def count_data(config: RunConfig) -> Amount:
    """The number of images of a configuration, which are not opened.

    Raises:
        DataError: the data cannot be used.
    """
    return count_images(config.data.path, test_fraction=config.data.test_fraction, birds=_birds(config))


def _birds(config: RunConfig) -> BirdCounts:
    data = config.data
    return BirdCounts(
        num_classes=data.birds_classes,
        train_per_class=data.birds_train,
        val_per_class=data.birds_val,
        test_per_class=data.birds_test,
        differ_in=data.birds_differ_in,
    )


def open_if_there(config: RunConfig, run: Path) -> Splits | None:
    """The data of the run in the folder `run`, checked; None if the data folder no longer exists."""
    path = config.data.path
    return open_data(config, run=run) if not path or Path(path).exists() else None


def read_photographs(config: RunConfig, paths: Sequence[Path]) -> list[torch.Tensor]:
    """Read images from any place as the run reads its data, (C, Y, X) each.

    Raises:
        DataError: a file is no image, or an image that the run cannot use.
    """
    reading = reading_of(config)
    return [read_image(path, config.data.image_size, reading) for path in paths]


def read_sent(config: RunConfig, name: str, content: bytes) -> torch.Tensor:
    """An image that was sent as the bytes of a file, as the run reads its data, (C, Y, X).

    Args:
        config: of the run.
        name: what the sender calls the file; for errors, and its ending for the format.
        content: the file.

    Raises:
        DataError: it is no image, or an image that the run cannot use.
    """
    size = parse_image_size(config.data.image_size)
    pixels = read_pixels(Path(name), size, reading_of(config), content)
    return pixels_to_tensor(pixels[np.newaxis].copy())[0]


def read_pictures(config: RunConfig, paths: Sequence[Path]) -> list[np.ndarray]:
    """The images of `paths` as people see them, (Y, X, 3) uint8 each."""
    size, reading = parse_image_size(config.data.image_size), reading_of(config)
    return [to_display(read_pixels(path, size, reading)) for path in paths]


def data_folder(config: RunConfig) -> Path | None:
    """The data folder of a configuration; None for data that are not in a folder."""
    return folder_of(config.data.path)


def reading_of(config: RunConfig) -> ReadOptions:
    """How a run reads every image, even one outside of its data sets."""
    data = config.data
    return ReadOptions(max_pixels=data.max_image_pixels, channels=data.channels, grey_range=data.grey_range)


def prepare_colours(config: RunConfig) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """A function from colour images (B, 3, Y, X) to the channels of a run; None if the run has the same channels.

    Raises:
        ConfigError: the channels of the run are not colours.
    """
    channels = config.data.channels
    if channels > _MOST_COLOURS:
        raise ConfigError(
            f"data.channels: must be at most {_MOST_COLOURS} to measure what colours and shapes matter; got {channels}."
        )
    return None if channels == 3 else partial(channels_of_rgb, channels=channels)


def check_classes(splits: Splits, classes: Sequence[str]) -> None:
    """Raise a DataError unless the data have exactly the classes of the model, in any form of accents."""
    ours, theirs = ([composed(name) for name in names] for names in (classes, splits.classes))
    missing, extra = (sorted({*one} - {*other}) for one, other in ((ours, theirs), (theirs, ours)))
    if missing or extra:
        parts = [
            f"{kind} {', '.join(names[:5])}" for kind, names in (("missing:", missing), ("unknown:", extra)) if names
        ]
        similar = name_pairs_alike(missing, extra)
        parts += [similar] if similar else []
        raise DataError(
            f"data: must have the {len(classes)} classes that the model was trained on; {'; '.join(parts)}. "
            "Give the data of the run."
        )
    if ours != theirs:  # the same classes in another order: answers would get wrong names
        first = next(k for k in range(len(ours)) if ours[k] != theirs[k])
        raise DataError(
            f"data: must have the classes in the order that the model was trained on; class {first} must be "
            f"{classes[first]!a}, got {splits.classes[first]!a}. Name or list them as the data of the run did."
        )


@dataclass(frozen=True, slots=True)
class FoundAnnotations:
    """What is known about the images of a split; where something is unknown, why, as the end of a sentence.

    Attributes:
        regions: the places of the object in an image, by name.
        no_regions: why there are none.
        parts: the visible parts in an image.
        no_parts: why there are none.
    """

    regions: Callable[[int], Mapping[str, Region]] | None = None
    no_regions: str = ""
    parts: Callable[[int], Sequence[PartPoint]] | None = None
    no_parts: str = ""


def find_annotations(config: RunConfig, splits: Splits, split: str = "test") -> FoundAnnotations:
    """The boxes, masks and part centres of the images of "test" or "train", or why they are unknown.

    Raises:
        DataError: the annotations cannot be used.
    """
    images, others = (splits.test, splits.push) if split == "test" else (splits.push, splits.test)
    if isinstance(images, SyntheticBirds):
        truth = BirdTruth(images)
        return FoundAnnotations(regions=truth.regions, parts=truth.parts)
    folder = data_folder(config)
    if folder is None:
        where = f"{config.data.path} is no folder that"
        return FoundAnnotations(
            no_regions=f"{where} boxes.csv or masks/ could lie in",
            no_parts=f"it needs part centres, and {where} parts.csv could lie in",
        )
    annotations = open_annotations(folder, images, (others, splits.val))
    names = annotations.names
    return FoundAnnotations(
        regions=annotations.regions if annotations.has_boxes or annotations.has_masks else None,
        no_regions=f"no {names['boxes']} and no {names['masks']} beside the images of {folder}",
        parts=annotations.parts if annotations.has_parts else None,
        no_parts=f"it needs part centres, and there is no {names['parts']} beside the images of {folder}",
    )
