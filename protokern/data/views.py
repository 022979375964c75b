"""Several views of an image that show the same places: one change of viewpoint, then light and colour of each view."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from protokern.data.augment import WHOLE_IMAGE, Augmentation, Quad, draw_quad, inside_quad, warp

# Sides of what a view is cropped from and of the crop, as PIP-Net's 228 and 224 pixels.
_CROP = 224 / 228
_STRENGTH, _COLOUR = 0.5, 0.02  # largest change of light and contrast, and of saturation
_FEWEST_BITS = 2
CHANNELS = (1, 3)  # that can be changed


def draw_views(
    images: Tensor,
    augmentation: Augmentation | None,
    rngs: Sequence[np.random.Generator],
    size: tuple[int, int],
    views: int,
) -> Tensor:
    """Views of images, (B, V, C, Y, X); of one image they differ by a shift of a few pixels, light and colour.

    Args:
        images: (B, C, Y', X') in [0, 1], grey or RGB.
        augmentation: of the viewpoint that the views of an image share; None: the whole image.
        rngs: one for each image.
        size: rows and columns of a view.
        views: V.

    Source: Nauta et al. 2023 (PIP-Net), section 3.1, with the operations of the released `util/data.py`; one of them,
        drawn as in Müller and Hutter 2021, TrivialAugment.
    """
    shared = [WHOLE_IMAGE if augmentation is None else draw_quad(augmentation, rng) for rng in rngs]
    drawn = []
    for _ in range(views):
        shown = warp(images, [_cropped(quad, rng) for quad, rng in zip(shared, rngs, strict=True)], size)
        drawn.append(torch.stack([change_light(one, rng) for one, rng in zip(shown, rngs, strict=True)]))
    return torch.stack(drawn, dim=1)


def _cropped(quad: Quad, rng: np.random.Generator) -> Quad:
    """The quadrilateral without a narrow border, which is wider on one side by chance."""
    x, y = rng.uniform(0, 1 - _CROP, size=2).tolist()
    return inside_quad(quad, (x, y, x + _CROP, y + _CROP))


def change_light(image: Tensor, rng: np.random.Generator) -> Tensor:
    """An image (C, Y, X) in [0, 1] after one change of its light or colours, or none, of a random strength."""
    changes = _changes()
    change = changes[int(rng.integers(len(changes)))]
    sign = 1 if rng.integers(2) else -1
    return change(image, float(rng.uniform()), sign).clamp(0, 1)


def _changes() -> tuple[Callable[[Tensor, float, int], Tensor], ...]:
    """Each takes an image, a strength in [0, 1] and a sign."""
    from torchvision.transforms import functional as F  # takes a second to import

    def coarse(image: Tensor, strength: float, _: int) -> Tensor:
        return F.posterize(_as_bytes(image), 8 - round((8 - _FEWEST_BITS) * strength)).to(image.dtype) / 255

    return (
        lambda image, strength, sign: image,
        lambda image, strength, sign: F.adjust_brightness(image, 1 + sign * _STRENGTH * strength),
        lambda image, strength, sign: F.adjust_contrast(image, 1 + sign * _STRENGTH * strength),
        lambda image, strength, sign: F.adjust_sharpness(image, 1 + sign * _STRENGTH * strength),
        lambda image, strength, sign: F.adjust_saturation(image, 1 + sign * _COLOUR * strength),
        coarse,
        lambda image, strength, sign: F.autocontrast(image),
        lambda image, strength, sign: F.equalize(_as_bytes(image)).to(image.dtype) / 255,
    )


def _as_bytes(image: Tensor) -> Tensor:
    return (255 * image).round().to(torch.uint8)
