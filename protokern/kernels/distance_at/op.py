"""The public `distance_at` and its registered op `protokern::distance_at`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..backends import check_names
from ..checks import check_bias, check_inputs, check_patch, check_patch_weight, check_range
from ..geometry import compute_dtype, grid_shape
from ..metric import weigh
from ..min_distance.op import min_distance_backward, several_patches_backward
from ..min_distance.weight_gradient import weight_at
from ..registration import below_autograd, refuse_transforms, register_op, tensors_needed


def distance_at(
    features: Tensor,
    prototypes: Tensor,
    patch: Tensor,
    *,
    metric: str = "sqeuclidean",
    backend: str = "auto",
    patch_weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Distance from every prototype to one given patch of every image, or to several.

    At the patches that `min_distance` returns it gives the same distances. Differentiable once in features, prototypes
    and weights.

    Args:
        features: feature maps, (B, D, H, W); as in `min_distance`.
        prototypes: (P, D) or (P, D, h, w); as in `min_distance`.
        patch: (B, P) int64, flat index row * W' + column, in [0, H' * W'); or (B, P, m), several for every image and
            prototype, in any order and with repeats.
        metric: "sqeuclidean", "cosine" or "dot"; as in `min_distance`.
        backend: "auto", or a name from `available_backends()`.
        patch_weight: how much every patch counts, (B, H', W') in [0, 1]; as in `min_distance`.
        bias: (P,), for metric="dot" only; as in `min_distance`.

    Returns:
        The shape of `patch`, float32 for half inputs, else the dtype of the inputs; NaN where the patch or the
        prototype is not finite, or the patch's weight is NaN or outside of [0, 1]; inf where that is 0.

    Raises:
        TypeError: an input is not a tensor.
        ValueError: shapes, dtypes or devices disagree, the grid is empty, an index is out of range (on the CPU), or a
            name is unknown.
        BackendUnavailableError: `backend` was named but cannot run here.
    """
    refuse_transforms("distance_at")
    features, prototypes = check_inputs(features, prototypes, metric)
    check_patch(patch, features, prototypes)
    patch_weight = check_patch_weight(patch_weight, features, prototypes)
    bias = check_bias(bias, prototypes, metric)
    check_names(backend, None)
    distances: Tensor = _distance_at_op(features, prototypes, patch, metric, backend, patch_weight)
    if bias is None:
        return distances
    return distances - (bias if patch.dim() == 2 else bias[:, None])


def _implementation(
    features: Tensor,
    prototypes: Tensor,
    patch: Tensor,
    metric: str,
    backend: str,
    patch_weight: Tensor | None = None,
) -> Tensor:
    distance = _unweighted(features, prototypes, patch, metric, backend)
    if patch_weight is None:
        return distance
    return weigh(distance, weight_at(patch_weight, patch.flatten(1)).view(patch.shape), metric)


def _unweighted(features: Tensor, prototypes: Tensor, patch: Tensor, metric: str, backend: str) -> Tensor:
    rows, columns = grid_shape(features, prototypes)
    check_range(patch, "patch", rows * columns)
    return dispatch.evaluate("distance_at", (features, prototypes, patch, metric), backend)


def _fake(features: Tensor, prototypes: Tensor, patch: Tensor, *_settings: Any) -> Tensor:
    return features.new_empty(patch.shape, dtype=compute_dtype(features.dtype))


class _DistanceAtFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        prototypes: Tensor,
        patch: Tensor,
        metric: str,
        backend: str,
        patch_weight: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(features, prototypes, patch, patch_weight)
        ctx.metric, ctx.backend = metric, backend
        return below_autograd(_distance_at_op, features, prototypes, patch, metric, backend, patch_weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, prototypes, patch, patch_weight = ctx.saved_tensors
        inputs = (features, prototypes, patch, ctx.metric, ctx.backend, tensors_needed(ctx), patch_weight)
        of_patches = min_distance_backward if patch.dim() == 2 else several_patches_backward
        *to_inputs, to_weight = of_patches(grad, *inputs)
        return *to_inputs, None, None, None, to_weight


_distance_at_op = register_op(
    "distance_at(Tensor features, Tensor prototypes, Tensor patch, str metric, str backend, "
    "Tensor? patch_weight=None) -> Tensor",
    implementation=_implementation,
    fake=_fake,
    function=_DistanceAtFunction,
)
