"""Noise on images, drawn for each image by the seed, in the units in which papers give it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Papers give noise for images that are divided by the standard deviation of ImageNet's pixels in [0, 1]. It is the same
# noise for every net here, also for one that divides by another number.
UNIT = 0.225


def noise_for(image: Tensor, index: int, *, std: float, most: float | None = None, seed: int = 0) -> Tensor:
    """Normal noise for an image (C, Y, X) in [0, 1], with its shape, dtype and device; the same for a seed and index.

    Args:
        image: what it is for.
        index: of the image in the data set.
        std: standard deviation, in units of 0.225.
        most: no value is further from 0 than this, in the same units; None: no bound.
        seed: 0 or more.
    """
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    noise = std * torch.randn(image.shape, generator=generator)
    if most is not None:
        noise = noise.clamp(-most, most)
    return UNIT * noise.to(image)
