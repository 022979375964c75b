"""Similarities: decreasing functions of a distance, with their derivatives. Elementwise, any shape."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

ActivationName = Literal["log", "linear", "exp", "cosine"]
ACTIVATIONS: tuple[ActivationName, ...] = get_args(ActivationName)


def activate(distance: Tensor, activation: str, epsilon: float) -> Tensor:
    """Similarity of a distance.

    `log` is log((d + 1) / (d + epsilon)), `linear` is -d, `exp` is exp(-d), `cosine` is 1 - d.

    Source: Chen et al. 2019 (ProtoPNet), section 2.1, for `log`.
    """
    if activation == "log":
        # The same function as written above, without the cancellation of two logarithms at large distances.
        return torch.log1p((1 - epsilon) / (distance + epsilon))
    if activation == "linear":
        return -distance
    if activation == "exp":
        return torch.exp(-distance)
    assert activation == "cosine", activation
    return 1 - distance


def activation_derivative(distance: Tensor, activation: str, epsilon: float) -> Tensor:
    """Derivative of `activate` with respect to the distance."""
    if activation == "log":
        return (epsilon - 1) / ((distance + 1) * (distance + epsilon))
    if activation == "exp":
        return -torch.exp(-distance)
    assert activation in ("linear", "cosine"), activation
    return torch.full_like(distance, -1)
