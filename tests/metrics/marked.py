"""Images whose parts are drawn at random, so that measures of parts can be compared with slow programs."""

from __future__ import annotations

import numpy as np
import torch

from protokern.data.regions import PartPoint

NAMES = ("beak", "left eye", "right eye", "left wing")


def random_parts(number: int, seed: int = 0) -> list[tuple[PartPoint, ...]]:
    """For each image some of four parts, anywhere; the last image has none."""
    rng = np.random.default_rng(seed)
    marked = [
        tuple(PartPoint(name, *rng.random(2).tolist()) for name in NAMES if rng.random() < 0.7)
        for _ in range(number - 1)
    ]
    return [*marked, ()]


def random_images(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (number, 3, 32, 32) and labels of four classes."""
    images = torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    return images, torch.arange(number) % 4
