"""Noise on images, drawn for each image by the seed, in the units in which papers give it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from protokern.backbones import Backbone
from protokern.models.base import PrototypeModel

USUAL_STD = 0.225  # of the pixels in [0, 1] of natural images, by which most nets divide


def noise_for(
    model: PrototypeModel, image: Tensor, index: int, *, std: float, most: float | None = None, seed: int = 0
) -> Tensor:
    """Normal noise for an image (C, Y, X), with its shape, dtype and device; the same for the same seed and index.

    Args:
        model: its backbone says by which standard deviation it divides the channels; others are taken to divide by
            0.225.
        image: in [0, 1].
        index: of the image in the data set.
        std: standard deviation, in units of the normalised image, as in the papers.
        most: no value is further from 0 than this, in the same units; None: no bound.
        seed: 0 or more.
    """
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    noise = std * torch.randn(image.shape, generator=generator)
    if most is not None:
        noise = noise.clamp(-most, most)
    return noise.to(image) * _pixel_std(model).to(image)


def _pixel_std(model: PrototypeModel) -> Tensor:
    """The standard deviation of the channels by which the model divides, (C, 1, 1) or one number."""
    backbone = model.backbone
    return backbone.std[0] if isinstance(backbone, Backbone) else torch.tensor(USUAL_STD)
