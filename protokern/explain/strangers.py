"""From which score on a model should be believed that an image is of one of its classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_STEP = 1e-3  # of the thresholds, downwards, while they keep too few images
_NOTHING = 1e-12  # of the largest score


def class_thresholds(scores: Tensor | np.ndarray, share: float = 0.95) -> Tensor:
    """For each class the score above which an answer counts, so that `share` of these images keep theirs.

    The threshold of a class is the quantile 1 - `share` of the largest scores among the images that are answered with
    it; a class that is never the answer gets the mean of the others. If fewer than `share` of the images are above
    theirs, all thresholds fall in steps of a thousandth until enough are at or above them.

    Args:
        scores: (N, K), of images of the classes that chose nothing else, such as those of validation.
        share: of these images, in (0, 1).

    Returns:
        (K,), of the type of the scores. An image is believed if its largest score reaches the threshold of that class.

    Raises:
        ValueError: there is no image, a score is not finite, or `share` is out of range.

    Source: Nauta et al. 2023 (PIP-Net), section 4.4, and the released `test.py`, which takes test images.
    """
    given = torch.as_tensor(scores).detach()
    values = given.double().cpu()
    if values.ndim != 2 or 0 in values.shape or not values.isfinite().all():
        raise ValueError(
            f"scores: must be finite and (N, K), of at least one image; got shape {tuple(values.shape)}. Look at the "
            "images."
        )
    if not 0 < share < 1:
        raise ValueError(f"share: must be between 0 and 1; got {share}. Use for example 0.95.")
    largest, answer = values.max(dim=1)
    num_classes = values.shape[1]
    thresholds = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    for k in answer.unique().tolist():
        thresholds[k] = float(np.percentile(largest[answer == k].numpy(), 100 * (1 - share)))
    thresholds = torch.where(thresholds.isnan(), thresholds.nanmean(), thresholds)
    # Scores of other models may be negative; the steps are then taken from the lowest one upwards.
    lowest = largest.min().clamp(max=0)
    height, limits = largest - lowest, thresholds - lowest
    is_kept = height > limits[answer]
    while float(is_kept.double().mean()) < share:
        limits = (1 - _STEP) * limits
        limits[limits < _NOTHING * height.max()] = 0
        is_kept = height >= limits[answer]
    return (limits + lowest).to(given)


def believed(scores: Tensor, abstains: Tensor, thresholds: Tensor) -> Tensor:
    """Whether an image is taken for one of the classes, (N,) bool.

    Args:
        scores: (N, K).
        abstains: (N,) bool, whether the model has no answer anyway.
        thresholds: (K,), see `class_thresholds`.
    """
    largest, answer = scores.double().max(dim=1)
    return (largest >= thresholds[answer]) & ~abstains
