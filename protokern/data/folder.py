"""Opens a folder of photographs, train/ val/ test/ with one folder per class, after decoding every file once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from protokern.data.account import PassedOver, counted, describe_account, listed
from protokern.data.augment import Augmentation
from protokern.data.copies import LOOK
from protokern.data.dataset import OwnSplit, Sample, Splits
from protokern.data.decode import (
    PhotoFacts,
    ReadOptions,
    inspect_photo,
    is_deep_photo,
    read_pixels,
)
from protokern.data.grey import AUTO, describe_range, measure_range
from protokern.data.layout import ALL, find_images, no_images_message
from protokern.data.likeness import THUMBNAIL
from protokern.data.names import SPLIT_NAMES
from protokern.data.own_split import apply_split, draw_split, hold_out
from protokern.data.photos import PhotoDataset
from protokern.data.pixels import to_display
from protokern.errors import DataError

ON_UNREADABLE = ("stop", "skip")


def open_photo_folder(
    root: Path,
    *,
    image_size: tuple[int, int],
    val_fraction: float,
    test_fraction: float,
    seed: int,
    augmentation: Augmentation | None,
    on_unreadable: str,
    cache: str,
    reading: ReadOptions,
    checked_part: tuple[int, int],
    own_split: OwnSplit | None,
) -> Splits:
    """Open `root`/train, `root`/val and `root`/test, one folder per class, after decoding every file once.

    Without val/, a share of each class of train/ is held out, drawn by `seed`; a note says so. A folder of class
    folders alone is split automatically. Arguments that are not listed are those of `open_splits`.

    Args:
        root: the data folder.
        reading: how files become pixels. A grey range "auto" is measured over the training images.
        checked_part: (n, of): decode only every of-th file, from the n-th on; with "skip" all files, because all
            processes must know.
        own_split: how a folder without split folders was split before; None: split it now.

    Raises:
        DataError: the folder cannot be used as it is; the message says what to do.
        ValueError: an argument is out of range.
    """
    _check_arguments(on_unreadable, val_fraction=val_fraction, test_fraction=test_fraction)
    draw = partial(draw_split, test_fraction=test_fraction, val_fraction=val_fraction, seed=seed)
    gathered = _gather(root, on_unreadable, reading, checked_part, draw, own_split)
    classes, samples = gathered.classes, gathered.samples
    if "val" not in samples:
        samples["train"], samples["val"], note = hold_out(samples["train"], classes, val_fraction, seed)
        gathered.notes.append(note)
    reading, ranges = _settle_range(reading, samples, gathered.facts)
    open_photos = partial(
        PhotoDataset,
        root=root,
        image_size=image_size,
        seed=seed,
        cache=cache,
        reading=reading,
        has_deep_images=any(one.values is not None for one in gathered.facts.values()),
    )
    train = open_photos(samples["train"], classes, augmentation=augmentation)
    return Splits(
        train=train,
        push=train.without_augmentation(),
        val=open_photos(samples["val"], classes),
        test=open_photos(samples["test"], classes),
        classes=classes,
        notes=(gathered.account(), *gathered.notes, *ranges),
        grey_range=reading.grey_range,
        own_split=gathered.own_split,
    )


@dataclass(frozen=True, slots=True)
class _Gathered:
    """The images of a folder by split, and what was found out about them.

    Attributes:
        classes: class names.
        samples: files and class indices, by split.
        origin: the folder of another name that a split comes from.
        passed: files that do not count.
        facts: facts about every decoded file.
        notes: lines for the log.
        own_split: how a folder without split folders was split.
    """

    classes: list[str]
    samples: dict[str, list[Sample]]
    origin: dict[str, str]
    passed: PassedOver
    facts: dict[Path, PhotoFacts]
    notes: list[str]
    own_split: OwnSplit | None

    def account(self) -> str:
        """The line that counts every file of the folder."""
        counts = {name: len(self.samples[name]) for name in SPLIT_NAMES}
        return describe_account(counts, self.passed, noun="files", origin=self.origin)


def _gather(
    root: Path,
    on_unreadable: str,
    reading: ReadOptions,
    checked_part: tuple[int, int],
    draw: Callable[..., tuple[OwnSplit, list[str]]],
    own_split: OwnSplit | None,
) -> _Gathered:
    """Find all images, decode them once, and split them if the folder has no splits."""
    passed = PassedOver()
    found = find_images(root, passed)
    samples, facts, notes = _keep_readable(found.samples, on_unreadable, reading, checked_part, passed)
    for name, kept in samples.items():
        _check_filled(kept, found.classes, found.folders.get(name, root))
    split = None
    if ALL in samples:
        samples, split, drawn = _split_by_itself(root, samples[ALL], found.classes, reading, draw, own_split, passed)
        notes += drawn
    origin = {name: f"{folder.name}/" for name, folder in found.folders.items() if folder.name != name} | found.origin
    return _Gathered(found.classes, samples, origin, passed, facts, [*found.notes, *notes], split)


def _check_arguments(on_unreadable: str, **fractions: float) -> None:
    if on_unreadable not in ON_UNREADABLE:
        raise ValueError(
            f"on_unreadable: must be one of {', '.join(ON_UNREADABLE)}; got {on_unreadable!r}. Choose one."
        )
    for name, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise ValueError(f"{name}: must be between 0 and 1; got {fraction}. Use for example 0.1.")


def _split_by_itself(
    root: Path,
    samples: Sequence[Sample],
    classes: Sequence[str],
    reading: ReadOptions,
    draw: Callable[..., tuple[OwnSplit, list[str]]],
    before: OwnSplit | None,
    passed: PassedOver,
) -> tuple[dict[str, list[Sample]], OwnSplit, list[str]]:
    """The images by split, by the earlier split or a new one; that split; and lines for the log."""
    if before is not None:
        known = apply_split(root, samples, before, passed)
        if known is not None:
            return known, before, ["no train/ and test/: split as it was when the run began"]
    drawn, notes = draw(root, samples, _thumbnails(samples, reading), classes)
    parts = apply_split(root, samples, drawn, passed)
    assert parts is not None  # it has every image
    return parts, drawn, notes


def _thumbnails(samples: Sequence[Sample], reading: ReadOptions) -> list[np.ndarray]:
    def read(sample: Sample) -> np.ndarray:
        pixels = to_display(read_pixels(sample[0], (LOOK, LOOK), reading))
        blocks = pixels.reshape(THUMBNAIL, LOOK // THUMBNAIL, THUMBNAIL, LOOK // THUMBNAIL, 3)
        return blocks.mean(axis=(1, 3)).round().astype(np.uint8)

    with quiet_pillow(), ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        return list(pool.map(read, samples))


def _settle_range(
    reading: ReadOptions, samples: Mapping[str, Sequence[Sample]], facts: Mapping[Path, PhotoFacts]
) -> tuple[ReadOptions, list[str]]:
    """The options, with the range of grey values measured if it was "auto"; and lines for the log."""
    known = dict(facts)
    measured = None
    if reading.grey_range == AUTO:
        # If several processes share the check, each has seen a part; the range must cover all training images.
        unseen = [sample for sample in samples["train"] if sample[0] not in known and is_deep_photo(sample[0], reading)]
        known |= inspect_photos(unseen, reading)
        measured = measure_range(
            values for path, _ in samples["train"] if path in known and (values := known[path].values) is not None
        )
    settled = reading if measured is None else replace(reading, grey_range=measured)
    deep = [one.values for one in known.values() if one.values is not None]
    if not deep:
        return settled, []
    return settled, [describe_range(settled.grey_range, deep, is_measured=measured is not None)]


def _check_filled(samples: Sequence[Sample], classes: Sequence[str], folder: Path) -> None:
    with_images = {label for _, label in samples}
    without = [name for label, name in enumerate(classes) if label not in with_images]
    if without:
        raise DataError(no_images_message(folder, without))


def _keep_readable(
    samples: dict[str, list[Sample]],
    on_unreadable: str,
    reading: ReadOptions,
    checked_part: tuple[int, int],
    passed: PassedOver,
) -> tuple[dict[str, list[Sample]], dict[Path, PhotoFacts], list[str]]:
    """The samples that can be read, what each of them is, and lines for the log."""
    start, step = checked_part if on_unreadable == "stop" else (0, 1)
    every = [sample for split in samples.values() for sample in split]
    facts = inspect_photos(every[start::step], reading)
    notes = []
    sequences = [path for path, one in facts.items() if one.is_sequence]
    if sequences:
        notes.append(
            f"{counted(sequences, 'file')} with several pictures (animations, pages), of which the first is used: "
            f"{listed([path.name for path in sequences], 3)}"
        )
    unreadable = [(path, one.reason) for path, one in facts.items() if one.reason is not None]
    if not unreadable:
        return samples, facts, notes
    files = f"{len(unreadable)} unreadable file{'' if len(unreadable) == 1 else 's'}"
    if on_unreadable == "stop":
        raise DataError(
            f"data: must hold only images that can be read; got {files}: {_listed_files(unreadable)}. "
            'Replace or remove them, or leave them out with data.on_unreadable = "skip".'
        )
    bad = {path for path, _ in unreadable}
    for path, _ in unreadable:
        passed.add("unreadable", path.name)
    kept = {name: [sample for sample in split if sample[0] not in bad] for name, split in samples.items()}
    return kept, facts, [*notes, f"skipped {files}: {_listed_files(unreadable)}"]


def inspect_photos(samples: Sequence[Sample], options: ReadOptions) -> dict[Path, PhotoFacts]:
    """Decode every file once, by several threads, and say what each is."""
    paths = [path for path, _ in samples]
    with quiet_pillow(), ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        facts = list(pool.map(partial(inspect_photo, options=options), paths))
    return dict(zip(paths, facts, strict=True))


def describe_deep(paths: Sequence[Path], options: ReadOptions) -> str | None:
    """A line for people about the photographs with more than 8 bits; None if there are none."""
    deep = [(path, 0) for path in paths if is_deep_photo(path, options)]
    values = [facts.values for facts in inspect_photos(deep, options).values() if facts.values is not None]
    return describe_range(options.grey_range, values, is_measured=False) if values else None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings of damaged metadata and of its size limit; our reasons cover them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _listed_files(unreadable: Sequence[tuple[Path, str]]) -> str:
    """The first unreadable files with their reasons, and how many more there are."""
    return listed([f"{path} ({reason})" for path, reason in unreadable])
