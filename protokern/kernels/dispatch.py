"""Which function computes an op on which backend: one table, and the calls that use it.

A function is imported when it is first called, so that triton and the C++ library are loaded only if they are used. The
functions of a row take the same arguments, with two exceptions: only a search has a precision, which the reference does
not take because it searches exactly; and patch weights are passed only if there are any.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from . import native_library
from .backends import choose_backend

# "module:function" with a module of this package; after "native:" the name of an op of the C++ library.
IMPLEMENTATIONS = {
    "min_distance": {
        "reference": "min_distance.reference:min_distance",
        "native": "native:min_distance",
        "triton": "min_distance.triton_launch:min_distance",
    },
    "min_distance_backward": {
        "reference": "min_distance.reference:min_distance_backward",
        "native": "native:min_distance_backward",
        "triton": "min_distance.triton_backward:min_distance_backward",
    },
    "prototype_pool": {
        "reference": "min_distance.reference:prototype_pool",
        "native": "native:prototype_pool",
        "triton": "min_distance.triton_launch:prototype_pool",
    },
    "topk_pool": {
        "reference": "topk_pool.reference:topk_distance",
        "native": "native:topk_distance",
        "triton": "topk_pool.triton_launch:topk_distance",
    },
    "mean_activation": {
        "reference": "mean_activation.reference:mean_activation",
        "native": "native:mean_activation",
        "triton": "mean_activation.triton_launch:mean_activation",
    },
    "mean_activation_backward": {
        "reference": "mean_activation.reference:mean_activation_backward",
        "native": "native:mean_activation_backward",
        "triton": "mean_activation.triton_backward:mean_activation_backward",
    },
    "distance_map": {
        "reference": "distance_map.reference:distance_map",
        "native": "native:distance_map",
        "triton": "distance_map.triton_launch:distance_map",
    },
    "distance_at": {
        "reference": "distance_at.reference:distance_at",
        "native": "native:distance_at",
        "triton": "distance_at.triton_launch:distance_at",
    },
}


def search(
    op: str, inputs: tuple[Any, ...], precision: str | None, backend: str, patch_weight: Tensor | None = None
) -> Any:
    """The result of `op` on the backend and in the precision of the call.

    Args:
        op: one of IMPLEMENTATIONS.
        inputs: features, prototypes and the other arguments of the op before the precision.
        precision: as in `min_distance`.
        backend: "auto" or a name.
        patch_weight: (B, H', W'), or None.

    Raises:
        As `choose_backend`.
    """
    features, prototypes = inputs[:2]
    is_weighted = patch_weight is not None
    choice = choose_backend(
        backend, features.device, features.dtype, precision, op, features, prototypes, is_weighted=is_weighted
    )
    if choice.backend != "reference":
        inputs = (*inputs, choice.precision)
    if is_weighted:
        inputs = (*inputs, patch_weight)
    return implementation(op, choice.backend)(*inputs)


def gradient(op: str, inputs: tuple[Any, ...], backend: str) -> tuple[Tensor, Tensor]:
    """The gradients of `op` to features and prototypes, each shaped like its input, or (0,) where it is not needed.

    `inputs` are the gradient of the result, features, prototypes and further arguments; the last two say which
    gradients are needed.
    """
    _, features, prototypes = inputs[:3]
    choice = choose_backend(
        backend, features.device, features.dtype, None, op, features, prototypes, direction="backward"
    )
    gradients: tuple[Tensor, Tensor] = implementation(f"{op}_backward", choice.backend)(*inputs)
    return gradients


def evaluate(op: str, inputs: tuple[Any, ...], backend: str) -> Tensor:
    """Distances by `op`, which does not search; `inputs` begin with the features."""
    choice = choose_backend(backend, inputs[0].device, inputs[0].dtype, None)
    distances: Tensor = implementation(op, choice.backend)(*inputs)
    return distances


@cache
def implementation(op: str, backend: str) -> Callable[..., Any]:
    """The function of the table, imported or loaded.

    Raises:
        BackendUnavailableError: the C++ library does not load.
    """
    module, _, name = IMPLEMENTATIONS[op][backend].partition(":")
    function: Callable[..., Any]
    if module == "native":
        native_library.load()
        function = getattr(torch.ops.protokern_native, name).default
    else:
        function = getattr(import_module(f"{__package__}.{module}"), name)
    return function
