"""Opens a folder of photographs, train/ val/ test/ with one folder a class, after checking all of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from protokern.data.augment import Augmentation, find_augmentation
from protokern.data.class_names import class_indices
from protokern.data.decode import MAX_PIXELS, parse_image_size
from protokern.data.photos import PhotoDataset
from protokern.data.scan import (
    Sample,
    check_same_classes,
    find_samples,
    find_unreadable,
    listed_files,
    no_images_message,
)
from protokern.data.splits import Splits
from protokern.errors import DataError

ON_UNREADABLE = ("stop", "skip")


def open_photo_folder(
    root: Path,
    *,
    image_size: int | tuple[int, int],
    val_fraction: float = 0.1,
    seed: int = 0,
    augmentation: str | Augmentation | None = "protopnet",
    on_unreadable: str = "stop",
    cache: str = "none",
    max_image_pixels: int = MAX_PIXELS,
    checked_part: tuple[int, int] = (0, 1),
) -> Splits:
    """Open `root`/train, `root`/val and `root`/test, one folder a class, after decoding every file once.

    Without val/, a share of each class of train/ is held out, drawn by `seed`; a note says so.

    Args:
        root: the data folder.
        image_size: pixels, one number or (rows, columns).
        val_fraction: share held out when there is no val/, in (0, 1).
        seed: chooses the held-out images and the random views.
        augmentation: of the training images: "none", "protopnet", "crop" or an Augmentation.
        on_unreadable: "stop" raises and lists the files; "skip" leaves them out and notes them.
        cache: "none", or "memory" to keep decoded pixels.
        max_image_pixels: of a file; one with more is refused before it is decoded.
        checked_part: (n, of): decode only each of-th file, from the n-th on; for processes that share the work. With
            "skip" each decodes all, since all must know what is left out.

    Raises:
        DataError: the folder cannot be used as it is; the message says what to do.
        ValueError: an argument is out of range.
    """
    size, views = parse_image_size(image_size), find_augmentation(augmentation)
    if on_unreadable not in ON_UNREADABLE:
        raise ValueError(
            f"on_unreadable: must be one of {', '.join(ON_UNREADABLE)}; got {on_unreadable!r}. Choose one."
        )
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction: must be between 0 and 1; got {val_fraction}. Use for example 0.1.")
    folders = _split_folders(root)
    found = {name: find_samples(folder) for name, folder in folders.items()}
    classes = found["train"][1]
    for name, (_, split_classes) in found.items():
        check_same_classes(classes, split_classes, folders[name])
    labelled = {}
    for name, (split_samples, split_classes) in found.items():
        index = class_indices(classes, split_classes)
        labelled[name] = [(path, index[label]) for path, label in split_samples]
    samples, notes = _keep_readable(labelled, on_unreadable, max_image_pixels, checked_part)
    for name, kept in samples.items():
        _check_filled(kept, classes, folders[name])
    if "val" not in samples:
        samples["train"], samples["val"], note = hold_out(samples["train"], classes, val_fraction, seed)
        notes.append(note)

    open_photos = partial(PhotoDataset, root=root, image_size=size, seed=seed, cache=cache, max_pixels=max_image_pixels)
    train = open_photos(samples["train"], classes, augmentation=views)
    val, test = (open_photos(samples[split], classes) for split in ("val", "test"))
    return Splits(train, train.without_augmentation(), val, test, classes, tuple(notes))


def hold_out(
    samples: Sequence[Sample], classes: Sequence[str], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample], str]:
    """Split off a share of each class, at least one image and not the last one.

    Returns:
        The images that remain and those held out, both in their old order, and a line for the log.

    Raises:
        DataError: a class has a single image.
    """
    rng = np.random.default_rng(seed)
    held: set[int] = set()
    of_class: list[list[int]] = [[] for _ in classes]
    for i, (_, label) in enumerate(samples):
        of_class[label].append(i)
    for members, name in zip(of_class, classes, strict=True):
        if len(members) < 2:
            raise DataError(
                f"data: must hold at least two training images of each class to hold one out for validation; "
                f"got {len(members)} of {name}. Add images, or give validation images of their own (val)."
            )
        num_held = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.update(members[i] for i in rng.permutation(len(members))[:num_held])
    train = [sample for i, sample in enumerate(samples) if i not in held]
    val = [sample for i, sample in enumerate(samples) if i in held]
    note = (
        f"no folder val/: held out {len(val)} of {len(samples)} training images for validation "
        f"({fraction:.0%} of each class, seed {seed})"
    )
    return train, val, note


def _split_folders(root: Path) -> dict[str, Path]:
    if not root.exists():
        raise DataError(f"data: must be a folder; got {root}, which does not exist. Check the path.")
    if not root.is_dir():
        raise DataError(f"data: must be a folder; got the file {root}. Give the folder that holds train/ and test/.")
    inside = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    missing = [f"{name}/" for name in ("train", "test") if name not in inside]
    if missing:
        found = f"the folders {', '.join(inside[:10])}" if inside else "no folder"
        raise DataError(
            f"data: must hold train/ and test/ (val/ if you like), each with one folder a class; "
            f"got {found} in {root}, without {' and '.join(missing)}. Sort the images into these folders."
        )
    return {name: root / name for name in ("train", "val", "test") if name in inside}


def _check_filled(samples: Sequence[Sample], classes: Sequence[str], folder: Path) -> None:
    with_images = {label for _, label in samples}
    without = [name for label, name in enumerate(classes) if label not in with_images]
    if without:
        raise DataError(no_images_message(folder, without))


def _keep_readable(
    samples: dict[str, list[Sample]], on_unreadable: str, max_pixels: int, checked_part: tuple[int, int]
) -> tuple[dict[str, list[Sample]], list[str]]:
    start, step = checked_part if on_unreadable == "stop" else (0, 1)
    every = [sample for split in samples.values() for sample in split]
    unreadable = find_unreadable(every[start::step], max_pixels=max_pixels)
    if not unreadable:
        return samples, []
    files = f"{len(unreadable)} unreadable file{'' if len(unreadable) == 1 else 's'}"
    if on_unreadable == "stop":
        raise DataError(
            f"data: must hold only images that can be read; got {files}: {listed_files(unreadable)}. "
            'Replace or remove them, or leave them out with on_unreadable = "skip".'
        )
    bad = {path for path, _ in unreadable}
    kept = {name: [sample for sample in split if sample[0] not in bad] for name, split in samples.items()}
    return kept, [f"skipped {files}: {listed_files(unreadable)}"]
