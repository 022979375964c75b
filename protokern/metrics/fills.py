"""What replaces a part of an image: grey, the image without details, or another image of the data set."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from protokern.metrics.context import Context, LeftOutError

GREY = 0.5
WORDS = {"grey": "grey, 0.5", "blur": "blurred", "other": "another image, drawn for each"}
_BLUR = 0.05  # standard deviation as a share of each side of the image: outlines go, colours stay


def replaced(image: Tensor, fill: str, other: Tensor | None = None) -> Tensor:
    """What replaces an image (C, Y, X): "grey", 0.5 everywhere; "blur", the image without details; "other", that one.

    Raises:
        ValueError: `fill` is "other" and `other` is missing or of another size.
    """
    if fill == "other":
        if other is None or other.shape != image.shape:
            got = None if other is None else tuple(other.shape)
            raise ValueError(f"other: must be an image of shape {tuple(image.shape)}; got {got}. Give another one.")
        return other
    if fill == "grey":
        return torch.full_like(image, GREY)
    from torchvision.transforms.functional import gaussian_blur  # takes a second to import

    height, width = image.shape[1:]
    sizes = [2 * min(math.ceil(3 * _BLUR * side), side - 1) + 1 for side in (width, height)]  # reflected at the border
    blurred: Tensor = gaussian_blur(image, sizes, [_BLUR * width, _BLUR * height])
    return blurred


def check_fill(context: Context, num_images: int) -> None:
    """Raise a LeftOutError if the fill of the context needs another image and there is none."""
    if context.fill == "other" and (context.image is None or num_images < 2):
        raise LeftOutError("the rest cannot become another image, because there is none to take")


def other_image(context: Context, index: int, num_images: int, like: Tensor) -> Tensor | None:
    """Another image than `index`, drawn for it by the seed, where `like` is; None if the fill needs none."""
    if context.fill != "other":
        return None
    assert context.image is not None
    step = np.random.default_rng([context.seed, index]).integers(1, num_images)
    return context.image(int(index + step) % num_images).to(like)
