"""Finds images that two data sets or two classes share: one file twice, or one picture that was resized or saved again.

Every image is reduced once to 24 x 24 pixels. Two are nearly identical if these small pictures have almost the same
colours in the same places; for such pairs the bytes are compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from protokern.data.dataset import ImageDataset
from protokern.data.pixels import to_display
from protokern.errors import DataError

SIDE = 24  # pixels
LOOK = 4 * SIDE  # pixels it is first read at: a JPEG decoded at an eighth is blurred differently
# Correlation of the small pictures, each colour minus its mean. Photographs saved again as JPEGs of quality 30, or at
# half the size, have 0.995 or more; different synthetic birds less than 0.82, and coloured squares at different places
# on noise less than 0.986.
LEAST_CORRELATION = 0.99
LARGEST_DIFFERENCE = 10  # of 255, on average over all pixels and colours
_FLAT = 2.0  # standard deviation of the colours below which a picture has no pattern to compare
_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Copy:
    """An image of one data set that is also in another: positions in both, and whether the bytes are the same."""

    image: int
    of: int
    has_same_bytes: bool


@dataclass(frozen=True, slots=True)
class SmallPictures:
    """The images of a data set, reduced in size.

    Attributes:
        pixels: (N, 24, 24, 3) uint8; zeros where an image cannot be read.
        is_readable: (N,) bool.
        pattern: (N, 1728) float32, each colour minus its mean, of length 1; zeros if there is no pattern.
    """

    pixels: np.ndarray
    is_readable: np.ndarray
    pattern: np.ndarray


_Small = np.ndarray | None


def _pass_on(pictures: Iterator[_Small]) -> Iterable[_Small]:
    return pictures


def make_small(
    images: ImageDataset, progress: Callable[[Iterator[_Small]], Iterable[_Small]] = _pass_on
) -> SmallPictures:
    """Reduce every image of a data set, by several threads; `progress` passes the pictures on and shows how many."""

    def small(index: int) -> _Small:
        try:
            pixels = to_display(images.render(index, (LOOK, LOOK)))
        except DataError:  # training reports it later
            return None
        blocks = pixels.reshape(SIDE, LOOK // SIDE, SIDE, LOOK // SIDE, 3)
        return blocks.mean(axis=(1, 3)).round().astype(np.uint8)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        found = list(progress(pool.map(small, range(len(images)))))
    is_readable = np.array([one is not None for one in found], dtype=bool)
    pixels = np.zeros((len(found), SIDE, SIDE, 3), dtype=np.uint8)
    for index, one in enumerate(found):
        if one is not None:
            pixels[index] = one
    return SmallPictures(pixels, is_readable, patterns_of(pixels))


def patterns_of(pixels: np.ndarray) -> np.ndarray:
    """The patterns of small pictures (N, 24, 24, 3) uint8 that are compared, see `SmallPictures`."""
    colours = pixels.astype(np.float32)
    centred = (colours - colours.mean(axis=(1, 2), keepdims=True)).reshape(len(pixels), -1)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    has_pattern = length > _FLAT * np.sqrt(centred.shape[1])  # of which the standard deviation is that part
    pattern: np.ndarray = np.where(has_pattern, centred / np.maximum(length, 1e-9), np.float32(0))
    return pattern


def find_copies(
    images: ImageDataset,
    small: SmallPictures,
    others: ImageDataset,
    small_others: SmallPictures,
    *,
    is_compared: Callable[[int], np.ndarray] | None = None,
    at_once: int = _AT_ONCE,
) -> list[Copy]:
    """The images that are the same, or nearly, as one of the others; each once, with the most similar one.

    A picture without a pattern, such as one of a single colour, counts only if the bytes are the same.

    Args:
        images: a data set.
        small: its images, reduced.
        others: another one.
        small_others: its images, reduced.
        is_compared: from an image to whether each of the others is compared with it, (M,) bool; None: all are.
        at_once: how many images are compared with all the others in one product.
    """
    copies = []
    for index in range(len(images)):
        if index % at_once == 0:
            part = slice(index, index + at_once)
            likeness = small.pattern[part] @ small_others.pattern.T  # (B, M)
        if not small.is_readable[index]:
            continue
        row = likeness[index % at_once]
        candidates = np.flatnonzero(row >= LEAST_CORRELATION)
        if not small.pattern[index].any():
            equal = (small_others.pixels == small.pixels[index]).all(axis=(1, 2, 3))
            candidates = np.flatnonzero(equal & small_others.is_readable)
        if is_compared is not None:
            candidates = candidates[is_compared(index)[candidates]]
        copy = _best(
            images, index, others, candidates[np.argsort(-row[candidates], kind="stable")], small, small_others
        )
        if copy is not None:
            copies.append(copy)
    return copies


def find_class_copies(images: ImageDataset, small: SmallPictures) -> list[Copy]:
    """The images that are the same, or nearly, as an earlier one of another class of the same data set.

    Args:
        images: a data set.
        small: its images, reduced.
    """
    labels, places = np.asarray(images.labels), np.arange(len(images))

    def is_compared(index: int) -> np.ndarray:
        of_other_class: np.ndarray = (labels != labels[index]) & (places < index)
        return of_other_class

    return find_copies(images, small, images, small, is_compared=is_compared)


def _best(
    images: ImageDataset,
    index: int,
    others: ImageDataset,
    candidates: Sequence[int] | np.ndarray,
    small: SmallPictures,
    small_others: SmallPictures,
) -> Copy | None:
    """The first candidate with the same bytes, else the first that looks the same."""
    difference = np.abs(small_others.pixels[candidates].astype(np.int16) - small.pixels[index]).mean(axis=(1, 2, 3))
    alike = [int(one) for one, by in zip(candidates, difference, strict=True) if by <= LARGEST_DIFFERENCE]
    content = images.content(index) if alike else None
    for one in alike:
        if content is not None and others.content(one) == content:
            return Copy(index, one, has_same_bytes=True)
    return Copy(index, alike[0], has_same_bytes=False) if alike and small.pattern[index].any() else None
