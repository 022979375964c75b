"""The map of a prototype's similarity over an image, as large as the image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from protokern.nn import PrototypeLayer


def similarity_maps(layer: PrototypeLayer, features: Tensor, prototypes: np.ndarray) -> Tensor:
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
    return interpolate(maps[None].float(), size=size, mode="bicubic", align_corners=False)[0]


def scaled(maps: np.ndarray) -> np.ndarray:
    """Maps (n, Y, X) from 0, their least value, to 1, their greatest; NaN for a constant one."""
    low, high = (bound(maps, axis=(1, 2), keepdims=True) for bound in (np.min, np.max))
    with np.errstate(invalid="ignore"):
        result: np.ndarray = (maps - low) / (high - low)
    return result


def high_pixels(maps: np.ndarray, percentile: float = 95.0) -> np.ndarray:
    """Which pixels of maps (n, Y, X) reach the percentile of their map, (n, Y, X) bool."""
    threshold = np.percentile(maps.reshape(len(maps), -1), percentile, axis=1)
    high: np.ndarray = maps >= threshold[:, None, None]
    return high
