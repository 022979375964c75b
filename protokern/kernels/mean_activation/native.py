"""`mean_activation` and its gradient in C++: thin calls of the ops that the native library registers."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native_library


def mean_activation(
    features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float, precision: str
) -> Tensor:
    """Mean over the grid of the activation of the distance, (B, P)."""
    native_library.load()
    return torch.ops.protokern_native.mean_activation.default(
        features, prototypes, metric, activation, epsilon, precision
    )


def mean_activation_backward(
    grad: Tensor,
    features: Tensor,
    prototypes: Tensor,
    metric: str,
    activation: str,
    epsilon: float,
    need_features: bool,
    need_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients for `grad` (B, P), each shaped like its input, or (0,) where it is not needed."""
    native_library.load()
    return torch.ops.protokern_native.mean_activation_backward.default(
        grad, features, prototypes, metric, activation, epsilon, need_features, need_prototypes
    )
