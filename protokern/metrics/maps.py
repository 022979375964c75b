"""The map of a prototype's similarity over an image, as large as the image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from protokern.nn import PatchLayer


def similarity_maps(layer: PatchLayer, features: Tensor, prototypes: np.ndarray) -> Tensor:
    """The similarity of some prototypes to every patch of an image, (n, H', W').

    Args:
        layer: of the model.
        features: (D, H, W) of the image.
        prototypes: (n,), their indices.
    """
    index = torch.from_numpy(prototypes).to(features.device)
    similarity: Tensor = layer.activate(layer.distance_map(features[None], index))[0]
    return similarity


def peak_maps(maps: Tensor) -> Tensor:
    """Maps (n, H', W') that are 1 at the highest patch of each, the first on a tie, and 0 elsewhere."""
    flat = maps.flatten(1)
    return torch.zeros_like(flat).scatter_(1, flat.argmax(dim=1, keepdim=True), 1.0).reshape(maps.shape)


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (n, H', W') as large as an image of (Y, X) pixels, by bicubic interpolation; the same as OpenCV's."""
    rows, columns = (
        _stretch(cells, pixels).to(maps.device) for cells, pixels in zip(maps.shape[1:], size, strict=True)
    )
    return rows @ maps.float() @ columns.T


@lru_cache(maxsize=16)
def _stretch(cells: int, pixels: int) -> Tensor:
    """What every pixel of a side takes from every cell, (pixels, cells): both sides together are a matrix product."""
    return interpolate(torch.eye(cells)[None, None], size=(pixels, cells), mode="bicubic", align_corners=False)[0, 0]


def high_pixels(maps: np.ndarray, percentile: float = 95.0) -> np.ndarray:
    """Which pixels of maps (n, Y, X) reach the percentile of their map, (n, Y, X) bool.

    Between two values the percentile is interpolated linearly, as `numpy.percentile` does it.
    """
    flat = maps.reshape(len(maps), -1)
    low, part = divmod((flat.shape[1] - 1) * percentile / 100, 1)
    at = [int(low), min(int(low) + 1, flat.shape[1] - 1)]
    below, above = np.partition(flat, at, axis=1)[:, at].T
    high: np.ndarray = maps >= (below + (above - below) * part)[:, None, None]
    return high
