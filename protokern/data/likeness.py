"""Which images are nearly the same: copies, other sizes, other compressions, slight changes of light.

Two images are alike if both their difference hashes and their small copies nearly agree, or if `find_copies` would
match them; an image that is like a member of a group belongs to the group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from protokern.data.copies import LARGEST_DIFFERENCE, LEAST_CORRELATION, SIDE, patterns_of

THUMBNAIL = 48  # pixels a side of what is compared; enough for all measures
_MOST_PAIRED = 20_000  # largest number of images of which every pair is compared; more would take minutes
_ROWS = 512
_SMALL = 16
_HASH = 8
_MOST_BITS = 6  # of 64 that may differ
_MOST_DIFFERENCE = 5.0  # mean over pixels and channels, of 255
_BANDS = _MOST_BITS + 1  # parts of a hash, of which at least one is unchanged
_ONES = np.array([number.bit_count() for number in range(256)], dtype=np.int64)  # in every byte


def group_alike(pictures: Sequence[np.ndarray]) -> list[int]:
    """For every picture, (S, S, 3) uint8, S >= 24, the lowest index of the pictures that it is nearly the same as."""
    if not pictures:
        return []
    small = np.stack([_shrink(picture, _SMALL, _SMALL) for picture in pictures])  # (n, 16, 16, 3)
    hashes = np.array([_difference_hash(picture) for picture in pictures], dtype=np.uint64)
    parents = list(range(len(pictures)))
    for one, others in _candidates(hashes, small.mean(axis=(1, 2, 3))):
        close = _ONES[(hashes[others] ^ hashes[one]).view(np.uint8)].reshape(-1, 8).sum(axis=1) <= _MOST_BITS
        others = others[close]
        differences = np.abs(small[others] - small[one]).mean(axis=(1, 2, 3))
        for other in others[differences <= _MOST_DIFFERENCE]:
            _join(parents, one, int(other))
    if len(pictures) <= _MOST_PAIRED:
        _join_copies(parents, np.stack([_shrink(picture, SIDE, SIDE) for picture in pictures]))
    return [_root(parents, index) for index in range(len(pictures))]


def _join_copies(parents: list[int], tiny: np.ndarray) -> None:
    """Join pictures (N, 24, 24, 3) that `find_copies` would match, although their light differs more."""
    pixels = tiny.round().astype(np.uint8)
    patterns = patterns_of(pixels)
    for start in range(0, len(pixels), _ROWS):
        likeness = patterns[start : start + _ROWS] @ patterns[start:].T
        for row, values in enumerate(likeness):
            one = start + row
            after = (start + np.flatnonzero(values >= LEAST_CORRELATION)).tolist()
            others = [other for other in after if other > one and _root(parents, other) != _root(parents, one)]
            differences = np.abs(pixels[others].astype(np.int16) - pixels[one]).mean(axis=(1, 2, 3))
            for other, difference in zip(others, differences, strict=True):
                if difference <= LARGEST_DIFFERENCE:
                    _join(parents, one, other)


def _candidates(hashes: np.ndarray, brightness: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs, one and many, that share a band of their hashes and are nearly as bright: all pairs that may be alike."""
    for band in np.array_split(np.arange(64, dtype=np.uint64), _BANDS):
        keys = (hashes >> band[0]) & np.uint64(2 ** len(band) - 1)
        order = np.lexsort((brightness, keys))
        ends = [*np.flatnonzero(np.diff(keys[order])) + 1, len(order)]
        start = 0
        for end in ends:
            members = order[start:end]
            start = int(end)
            limits = np.searchsorted(brightness[members], brightness[members] + _MOST_DIFFERENCE, side="right")
            for position, limit in enumerate(limits):
                if limit > position + 1:
                    yield int(members[position]), members[position + 1 : limit]


def _difference_hash(picture: np.ndarray) -> int:
    """Whether each of 8 x 8 cells is brighter than its right neighbour, as the bits of a number."""
    grey = _shrink(picture, _HASH, _HASH + 1).mean(axis=2)
    bits = grey[:, :-1] > grey[:, 1:] + 1  # a threshold, so that the noise of flat areas gives no bits
    return int.from_bytes(np.packbits(bits).tobytes())


def _shrink(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Means over cells, (rows, columns, 3) float32."""
    edges = [
        np.linspace(0, side, count + 1).astype(int)
        for side, count in zip(picture.shape[:2], (rows, columns), strict=True)
    ]
    sums: np.ndarray = picture.astype(np.float32)
    for axis, ends in enumerate(edges):
        counts = np.diff(ends).reshape([-1 if axis == number else 1 for number in range(3)]).astype(np.float32)
        sums = np.add.reduceat(sums, ends[:-1], axis=axis) / counts
    return sums


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _join(parents: list[int], one: int, other: int) -> None:
    first, second = sorted((_root(parents, one), _root(parents, other)))
    parents[second] = first
