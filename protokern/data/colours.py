"""Opaque pictures in colour, brought to the channels of a run."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from protokern.data.pixels import LUMA, MODES, MOST_BANDS, WITH_OPACITY


def from_rgb(pixels: np.ndarray, channels: int) -> np.ndarray:
    """An opaque RGB picture (Y, X, 3) uint8 in 1 to 4 channels, (Y, X, C) uint8.

    Raises:
        ValueError: there are more channels than a picture has.
    """
    if channels == 3:
        return pixels
    if channels not in MODES:
        raise ValueError(f"channels: must be 1 to 4 for pictures in colour; got {channels}. Use for example 3.")
    converted = np.asarray(Image.fromarray(pixels).convert("RGBA").convert(MODES[channels]))
    return converted.reshape(*pixels.shape[:2], channels)


def channels_of_rgb(images: torch.Tensor, channels: int) -> torch.Tensor:
    """Opaque RGB images (B, 3, Y, X) in [0, 1] in 1 to 4 channels, (B, C, Y, X).

    Raises:
        ValueError: there are more channels than a picture has.
    """
    if channels == 3:
        return images
    if channels > MOST_BANDS:
        raise ValueError(f"channels: must be 1 to 4 for pictures in colour; got {channels}. Use for example 3.")
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)
    colours = images if channels > 2 else (images * weights[:, None, None]).sum(dim=1, keepdim=True)
    return torch.cat([colours, torch.ones_like(colours[:, :1])], dim=1) if channels in WITH_OPACITY else colours
