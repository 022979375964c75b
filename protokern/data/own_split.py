"""Splits for a data folder that lacks them.

In a folder of class folders alone, every class gives a share of its images to the test split and a share of the others
to the validation split. Images that are nearly the same stay together, so that no test image is a disguised training
image. If only the validation split is missing, it is held out of the training images.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from protokern.data.account import PassedOver, counted, listed, share_in_words
from protokern.data.dataset import OwnSplit, Sample
from protokern.data.likeness import group_alike
from protokern.errors import DataError

SPLITS = ("train", "val", "test")


def draw_split(
    root: Path,
    samples: Sequence[Sample],
    pictures: Sequence,
    classes: Sequence[str],
    *,
    test_fraction: float,
    val_fraction: float,
    seed: int,
) -> tuple[OwnSplit, list[str]]:
    """Draw the splits of a folder.

    If all images of a class are nearly the same, they all go to training; if there are two such groups, the smaller one
    goes to the test.

    Args:
        root: the data folder.
        samples: its images.
        pictures: of the images, (48, 48, 3) uint8, in the same order.
        classes: class names.
        test_fraction: share of each class for the test, in (0, 1).
        val_fraction: share of the others for the validation, in (0, 1).
        seed: seed of the draw.

    Returns:
        The splits, and lines for the log.
    """
    groups = _groups(samples, group_alike(pictures))
    place: dict[int, str] = {}
    mixed = 0
    of_class: list[list[list[int]]] = [[] for _ in classes]
    for group in groups:
        labels = {samples[index][1] for index in group}
        if len(labels) > 1:
            mixed += 1
            place |= dict.fromkeys(group, "train")
        else:
            of_class[labels.pop()].append(group)
    for own in of_class:
        own.sort(key=lambda group: _chance(root, samples, group, seed))
        count = sum(map(len, own))
        held_for_test = _take(own, test_fraction * count) if len(own) > 1 else []
        left = [group for group in own if group not in held_for_test]
        held_for_val = _take(left, val_fraction * sum(map(len, left))) if len(left) > 1 else []
        for name, some in (("test", held_for_test), ("val", held_for_val)):
            place |= {index: name for group in some for index in group}
    files = {
        split: tuple(_name(root, path) for i, (path, _) in enumerate(samples) if place.get(i, "train") == split)
        for split in SPLITS
    }
    return OwnSplit(files, seed), _notes(samples, place, groups, mixed, classes, (test_fraction, val_fraction), seed)


def apply_split(
    root: Path, samples: Sequence[Sample], split: OwnSplit, passed: PassedOver
) -> dict[str, list[Sample]] | None:
    """The images by split, as drawn before; None if none of them existed then.

    New images are counted as skipped.

    Raises:
        DataError: images of that split are missing.
    """
    found = {_name(root, path): (path, label) for path, label in samples}
    written = {name: part for part, names in split.files.items() for name in names}
    missing = sorted(written.keys() - found.keys())
    if len(missing) == len(written):
        return None
    if missing:
        raise DataError(
            f"data: must hold the images that the run was split into; {root} lacks {len(missing)} of {len(written)}: "
            f"{listed(missing)}. Put them back, or train a new run."
        )
    for name in sorted(found.keys() - written.keys()):
        passed.add("new since the run was split", name)
    return {
        part: [found[name] for name in sorted(names, key=lambda name: (found[name][1], found[name][0]))]
        for part, names in split.files.items()
    }


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
    counts: list[int] = []
    of_class: list[list[int]] = [[] for _ in classes]
    for i, (_, label) in enumerate(samples):
        of_class[label].append(i)
    for members, name in zip(of_class, classes, strict=True):
        if len(members) < 2:
            raise DataError(
                f"data: must hold at least two training images of each class to hold one out for validation; "
                f"got {len(members)} of {name}. Add images, or give a folder of validation images (val)."
            )
        num_held = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.update(members[i] for i in rng.permutation(len(members))[:num_held])
        counts.append(num_held)
    train = [sample for i, sample in enumerate(samples) if i not in held]
    val = [sample for i, sample in enumerate(samples) if i in held]
    note = (
        f"no folder val/: held out {len(val)} of {len(samples)} training images for validation "
        f"({share_in_words(counts, [len(members) for members in of_class], fraction)}, seed {seed})"
    )
    return train, val, note


def _groups(samples: Sequence[Sample], heads: Sequence[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for index in range(len(samples)):
        groups.setdefault(heads[index], []).append(index)
    return list(groups.values())


def _take(groups: list[list[int]], wanted: float) -> list[list[int]]:
    """Groups, in order, that together have about the wanted number of images; at least one, and not all."""
    quota = max(1, round(wanted))
    taken: list[list[int]] = []
    for group in groups:
        if len(taken) < len(groups) - 1 and len(group) <= quota - sum(map(len, taken)):
            taken.append(group)
    return taken or [min(groups, key=len)]


def _chance(root: Path, samples: Sequence[Sample], group: Sequence[int], seed: int) -> bytes:
    """The random key of a group: from the name of its first image, so that it depends on no other image."""
    name = os.fsencode(_name(root, samples[group[0]][0]))
    return hashlib.sha256(b"%d/" % seed + name).digest()


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _notes(
    samples: Sequence[Sample],
    place: Mapping[int, str],
    groups: Sequence[Sequence[int]],
    mixed: int,
    classes: Sequence[str],
    fractions: tuple[float, float],
    seed: int,
) -> list[str]:
    everything = Counter(label for _, label in samples)
    of_split = {
        split: Counter(label for i, (_, label) in enumerate(samples) if place.get(i) == split)
        for split in ("test", "val")
    }
    rest = everything - of_split["test"]
    shares = [
        share_in_words([part[label] for label in everything], [whole[label] for label in everything], fraction)
        for part, whole, fraction in zip(of_split.values(), (everything, rest), fractions, strict=True)
    ]
    notes = [
        f"no train/ and test/: split automatically, for the test {of_split['test'].total()} of {len(samples)} images "
        f"({shares[0]}), for the validation {of_split['val'].total()} of the others ({shares[1]}), seed {seed}; "
        "written to the run folder"
    ]
    alike = [group for group in groups if len(group) > 1]
    if alike:
        notes.append(
            f"{sum(map(len, alike))} images are nearly the same as others, in {counted(alike, 'group')}; each group is "
            "in one split"
        )
    if mixed:
        notes.append(f"{mixed} of these groups have images of several classes, and are in training; look at them")
    for split, kind in (("test", "test"), ("val", "validation")):
        without = [name for label, name in enumerate(classes) if not of_split[split][label]]
        if without:
            notes.append(f"no {kind} image of {listed(without)}: too few images that are not nearly the same")
    return notes
