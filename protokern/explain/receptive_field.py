"""Which pixels a patch of the feature map can depend on, for any net, without a formula per architecture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from protokern.results.places import Box, ReceptiveField

_BATCH = 16


def find_receptive_field(net: Callable[[Tensor], Tensor], image: Tensor) -> ReceptiveField:
    """Find the receptive field of every cell of `net(image)` by running the net on images with NaN pixels.

    A cell depends on a pixel, whatever the weights, exactly if NaN in that pixel makes the cell NaN: NaN survives every
    layer (a zero weight, a ReLU and a max-pool included) and spreads nowhere else. So the box is right for
    branches, strides, dilation and padding, and is the whole image if a net pools globally (squeeze and excitation).
    The ends are searched by bisection: four images if every cell sees the whole image, a few dozen otherwise.
    The net must be in evaluation mode, because batch statistics would mix the images. Of features of `SalientLayers`
    only the length depends on the whole image, and NaN patches are left out of it; the box is that of the direction.

    Args:
        net: maps images (B, C, Y, X) to features (B, D, H, W).
        image: (C, Y, X), finite, on the net's device.

    Returns:
        Intervals for all H grid rows and W grid columns.

    Raises:
        ValueError: features are not finite for `image` itself, or do not depend on it.
    """
    top, bottom, left, right = _find_ends(net, image, middle=False)
    height, width = image.shape[1:]
    return ReceptiveField(
        rows=tuple((first, height - last) for first, last in zip(top, bottom, strict=True)),
        columns=tuple((first, width - last) for first, last in zip(left, right, strict=True)),
    )


def find_middle_field(net: Callable[[Tensor], Tensor], image: Tensor) -> Box:
    """The box that the cell in the middle of the grid depends on; cheaper than `find_receptive_field`.

    It takes a few dozen images for any number of cells.

    Args:
        net: as for `find_receptive_field`.
        image: as for `find_receptive_field`.

    Raises:
        ValueError: as `find_receptive_field`.
    """
    (top,), (bottom,), (left,), (right,) = _find_ends(net, image, middle=True)
    height, width = image.shape[1:]
    return Box(top, left, height - bottom, width - right)


def _find_ends(net: Callable[[Tensor], Tensor], image: Tensor, *, middle: bool) -> list[list[int]]:
    """For the top, bottom, left and right: how many pixel lines each row or column of cells does not see."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=False):  # Winograd and FFT would spread NaN
        features = net(image[None])
        if not torch.isfinite(features).all():
            raise ValueError("image: must give finite features; got NaN or inf. Check the image and the weights.")
        ends = []
        for axis in (1, 2):
            length = features.shape[axis + 1]
            cells = [length // 2] if middle else list(range(length))
            ends += [_search_ends(net, image, axis=axis, from_end=from_end, cells=cells) for from_end in (False, True)]
    return ends


def _search_ends(
    net: Callable[[Tensor], Tensor], image: Tensor, *, axis: int, from_end: bool, cells: list[int]
) -> list[int]:
    """For given grid rows (axis 1) or columns (axis 2): how many pixel lines at that side each does not see."""
    length = image.shape[axis]
    unseen = [0] * len(cells)  # blanking this many lines leaves the cell finite
    seen = [length + 1] * len(cells)  # blanking this many makes it NaN
    counts = [1, length]  # one line decides for the cells that see the border, all lines for those that see nothing
    while counts:
        touched = _touched_cells(net, image, axis=axis, from_end=from_end, counts=counts)
        for count, is_touched in zip(counts, touched, strict=True):
            for number, cell in enumerate(cells):
                if is_touched[cell]:
                    seen[number] = min(seen[number], count)
                else:
                    unseen[number] = max(unseen[number], count)
        if max(unseen) == length:
            raise ValueError("net: must make every cell of its features depend on the image; got cells that do not.")
        counts = sorted({(low + high) // 2 for low, high in zip(unseen, seen, strict=True) if high - low > 1})
    return unseen


def _touched_cells(
    net: Callable[[Tensor], Tensor], image: Tensor, *, axis: int, from_end: bool, counts: list[int]
) -> list[list[bool]]:
    """For every count: which grid rows (or columns) become NaN when that many pixel lines at one side are NaN."""
    length = image.shape[axis]
    touched: list[list[bool]] = []
    for start in range(0, len(counts), _BATCH):
        part = counts[start : start + _BATCH]
        images = image.repeat(len(part), 1, 1, 1)
        for blanked, count in zip(images, part, strict=True):
            blanked.narrow(axis, length - count if from_end else 0, count).fill_(torch.nan)
        is_nan = torch.isnan(net(images)).any(dim=1)  # (b, H, W)
        touched.extend(is_nan.any(dim=2 if axis == 1 else 1).tolist())
    return touched
