"""The public `distance_at` and its registered op `protokern::distance_at`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends import check_names, choose_backend
from ..checks import check_inputs, check_patch, check_range
from ..geometry import compute_dtype, grid_shape
from ..min_distance.op import min_distance_backward
from ..registration import below_autograd, refuse_transforms, register_op
from . import native, reference


def distance_at(
    features: Tensor, prototypes: Tensor, patch: Tensor, *, metric: str = "sqeuclidean", backend: str = "auto"
) -> Tensor:
    """Distance from every prototype to one given patch of every image.

    At the patches that `min_distance` returns it gives the same distances. Differentiable once in `features` and
    `prototypes`.

    Args:
        features: feature maps, (B, D, H, W); as in `min_distance`.
        prototypes: (P, D) or (P, D, h, w); as in `min_distance`.
        patch: (B, P) int64, flat index row * W' + column, in [0, H' * W').
        metric: "sqeuclidean" or "cosine"; as in `min_distance`.
        backend: "auto", or a name from `available_backends()`.

    Returns:
        (B, P), float32 for half inputs, else the dtype of the inputs; NaN where the patch or the prototype is not
        finite.

    Raises:
        TypeError: an input is not a tensor.
        ValueError: shapes, dtypes or devices disagree, the grid is empty, an index is out of range (on the CPU), or a
            name is unknown.
        BackendUnavailableError: `backend` was named but cannot run here.
    """
    refuse_transforms("distance_at")
    features, prototypes = check_inputs(features, prototypes, metric)
    check_patch(patch, features, prototypes)
    check_names(backend, None)
    return _distance_at_op(features, prototypes, patch, metric, backend)


def _implementation(features: Tensor, prototypes: Tensor, patch: Tensor, metric: str, backend: str) -> Tensor:
    rows, columns = grid_shape(features, prototypes)
    check_range(patch, "patch", rows * columns)
    chosen = choose_backend(backend, features.device, features.dtype, None).backend
    if chosen == "native":
        return native.distance_at(features, prototypes, patch, metric)
    if chosen == "triton":
        from . import triton_launch

        return triton_launch.distance_at(features, prototypes, patch, metric)
    return reference.distance_at(features, prototypes, patch, metric)


def _fake(features: Tensor, prototypes: Tensor, patch: Tensor, metric: str, backend: str) -> Tensor:
    return features.new_empty((features.shape[0], prototypes.shape[0]), dtype=compute_dtype(features.dtype))


class _DistanceAtFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, prototypes: Tensor, patch: Tensor, metric: str, backend: str) -> Tensor:
        ctx.save_for_backward(features, prototypes, patch)
        ctx.metric, ctx.backend = metric, backend
        return below_autograd(_distance_at_op, features, prototypes, patch, metric, backend)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, prototypes, patch = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        grads = min_distance_backward(grad, features, prototypes, patch, ctx.metric, ctx.backend, needs)
        return *grads, None, None, None


_distance_at_op = register_op(
    "distance_at(Tensor features, Tensor prototypes, Tensor patch, str metric, str backend) -> Tensor",
    implementation=_implementation,
    fake=_fake,
    function=_DistanceAtFunction,
)
