"""Similarities: decreasing functions of a distance, with their slopes. Elementwise, any shape.

Each has a row in torch, which is its definition, and a branch in Triton's language for the kernels.
csrc/core/similarity.h has the C++, protokern/choices.py the names. A name that one of them lacks is an error there,
never another similarity.

Sources: Chen et al. 2019 (ProtoPNet), section 2.1, for `log`; Nauta et al. 2021 (ProtoTree), section 3, for `exp_root`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..choices import ACTIVATIONS, ActivationName
from .triton_common.language import jit, tl


class Similarity(NamedTuple):
    """A similarity.

    Attributes:
        value: of a distance and epsilon.
        slope: its derivative with respect to the distance.
    """

    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, float], Tensor]


# Added to a distance before its root is taken, so that the slope is finite at a copy.
ROOT_OFFSET = 1e-14

SIMILARITIES: dict[ActivationName, Similarity] = {
    # log((d + 1) / (d + epsilon)), without the cancellation of two logarithms at large distances.
    "log": Similarity(
        lambda distance, epsilon: torch.log1p((1 - epsilon) / (distance + epsilon)),
        lambda distance, epsilon: (epsilon - 1) / ((distance + 1) * (distance + epsilon)),
    ),
    "linear": Similarity(lambda distance, epsilon: -distance, lambda distance, epsilon: torch.full_like(distance, -1)),
    "exp": Similarity(lambda distance, epsilon: torch.exp(-distance), lambda distance, epsilon: -torch.exp(-distance)),
    "cosine": Similarity(
        lambda distance, epsilon: 1 - distance, lambda distance, epsilon: torch.full_like(distance, -1)
    ),
    # Of the distance itself, not of its square.
    "exp_root": Similarity(
        lambda distance, epsilon: torch.exp(-torch.sqrt(distance + ROOT_OFFSET)),
        lambda distance, epsilon: (
            torch.exp(-torch.sqrt(distance + ROOT_OFFSET)) / (-2 * torch.sqrt(distance + ROOT_OFFSET))
        ),
    ),
}
assert tuple(SIMILARITIES) == ACTIVATIONS


@jit
def triton_value(distance, epsilon, ACTIVATION: tl.constexpr):
    """The similarity of a distance."""
    if ACTIVATION == "log":
        # log(1 + u) loses u where it is small; the quotient puts back what 1 + u rounded away.
        u = (1 - epsilon) / (distance + epsilon)
        w = 1 + u
        rest = tl.where((w == 1) | (w == float("inf")), 1.0, w - 1)
        result = tl.where(w == 1, u, tl.log(w) * tl.where(w == float("inf"), 1.0, u / rest))
    elif ACTIVATION == "linear":
        result = -distance
    elif ACTIVATION == "exp":
        result = tl.exp(-distance)
    elif ACTIVATION == "cosine":
        result = 1 - distance
    elif ACTIVATION == "exp_root":
        result = tl.exp(-tl.sqrt(distance + 1e-14))
    else:
        tl.static_assert(False, "an activation without a value")
    return result


@jit
def triton_slope(distance, epsilon, ACTIVATION: tl.constexpr):
    """The derivative of the similarity with respect to the distance."""
    if ACTIVATION == "log":
        result = (epsilon - 1) / ((distance + 1) * (distance + epsilon))
    elif ACTIVATION == "exp":
        result = -tl.exp(-distance)
    elif ACTIVATION == "exp_root":
        root = tl.sqrt(distance + 1e-14)
        result = tl.exp(-root) / (root * -2.0)
    elif ACTIVATION == "linear" or ACTIVATION == "cosine":
        result = 0.0 * distance - 1.0
    else:
        tl.static_assert(False, "an activation without a slope")
    return result


def activate(distance: Tensor, activation: str, epsilon: float) -> Tensor:
    """Similarity of a distance.

    `log` is log((d + 1) / (d + epsilon)), `linear` is -d, `exp` is exp(-d), `cosine` is 1 - d, `exp_root` is
    exp(-sqrt(d + 1e-14)).
    """
    return SIMILARITIES[activation].value(distance, epsilon)  # type: ignore[index]


def slope(distance: Tensor, activation: str, epsilon: float) -> Tensor:
    """Derivative of `activate` with respect to the distance."""
    return SIMILARITIES[activation].slope(distance, epsilon)  # type: ignore[index]
