"""The public `distance_map` and its registered op `protokern::distance_map`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..backends import check_names
from ..checks import check_bias, check_inputs, check_patch_weight, check_prototype_index, check_range
from ..geometry import compute_dtype, grid_shape
from ..metric import METRIC_TABLE, weigh, weigh_gradient
from ..registration import (
    below_autograd,
    fake_gradients,
    no_second_derivative,
    only_needed,
    refuse_transforms,
    register_op,
    tensors_needed,
)
from . import reference


def distance_map(
    features: Tensor,
    prototypes: Tensor,
    *,
    prototype_index: Tensor | None = None,
    metric: str = "sqeuclidean",
    backend: str = "auto",
    patch_weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Distance from prototypes to every patch: the numbers that `min_distance` takes the smallest of.

    Differentiable once in features, prototypes and weights, at every patch. Choose the prototypes that are needed: the
    result for all of them is the B x P x H x W tensor that `min_distance` avoids.

    Args:
        features: feature maps, (B, D, H, W); as in `min_distance`.
        prototypes: (P, D) or (P, D, h, w); as in `min_distance`.
        prototype_index: (P',) int64, which prototypes, in any order and with repeats; None for all.
        metric: "sqeuclidean", "cosine" or "dot"; as in `min_distance`.
        backend: "auto", or a name from `available_backends()`.
        patch_weight: how much every patch counts, (B, H', W') in [0, 1]; as in `min_distance`.
        bias: (P,), of all prototypes, for metric="dot" only; as in `min_distance`.

    Returns:
        (B, P', H', W'), float32 for half inputs, else the dtype of the inputs; NaN where the patch or the prototype is
        not finite, or the patch's weight is NaN or outside of [0, 1]; inf where that is 0.

    Raises:
        TypeError: an input is not a tensor.
        ValueError: shapes, dtypes or devices disagree, the grid is empty, an index is out of range, or a name is
            unknown.
        BackendUnavailableError: `backend` was named but cannot run here.
    """
    refuse_transforms("distance_map")
    features, prototypes = check_inputs(features, prototypes, metric)
    bias = check_bias(bias, prototypes, metric)
    if prototype_index is not None:
        check_prototype_index(prototype_index, prototypes)
        prototypes = _select(prototypes, prototype_index)
        bias = None if bias is None else _select(bias, prototype_index)
    patch_weight = check_patch_weight(patch_weight, features, prototypes)
    check_names(backend, None)
    distances: Tensor = _distance_map_op(features, prototypes, metric, backend, patch_weight)
    return distances if bias is None else distances - bias[:, None, None]


def _select(prototypes: Tensor, index: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        check_range(index, "prototype_index", len(prototypes))
    # Of torch's two ways to take rows, the one whose gradient adds repeated rows in a fixed order on this device.
    return prototypes.index_select(0, index) if prototypes.device.type == "cpu" else prototypes[index]


def _implementation(
    features: Tensor, prototypes: Tensor, metric: str, backend: str, patch_weight: Tensor | None = None
) -> Tensor:
    distance = _unweighted(features, prototypes, metric, backend)
    return distance if patch_weight is None else weigh(distance, patch_weight[:, None], metric)


def _unweighted(features: Tensor, prototypes: Tensor, metric: str, backend: str) -> Tensor:
    return dispatch.evaluate("distance_map", (features, prototypes, metric), backend)


def _fake(features: Tensor, prototypes: Tensor, *_settings: Any) -> Tensor:
    shape = (features.shape[0], prototypes.shape[0], *grid_shape(features, prototypes))
    return features.new_empty(shape, dtype=compute_dtype(features.dtype))


class _DistanceMapFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, prototypes: Tensor, metric: str, backend: str, patch_weight: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(features, prototypes, patch_weight)
        ctx.metric, ctx.backend = metric, backend
        return below_autograd(_distance_map_op, features, prototypes, metric, backend, patch_weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, prototypes, patch_weight = ctx.saved_tensors
        *needs, needs_weight = tensors_needed(ctx)
        to_weight = None
        if patch_weight is not None:
            distance = grad  # its values are wanted for the gradient of the weights alone, and by some metrics alone
            if needs_weight and METRIC_TABLE[ctx.metric].weight_needs_distance:
                distance = below_autograd(_distance_map_op, features, prototypes, ctx.metric, ctx.backend)
            slopes = weigh_gradient(distance, patch_weight[:, None], ctx.metric)
            to_weight = (grad * slopes[1]).sum(1) if needs_weight else None
            grad = grad * slopes[0]
        if not any(needs):
            return None, None, None, None, to_weight
        grads = _backward_op(grad, features, prototypes, ctx.metric, *needs)
        return *only_needed(grads, (needs[0], needs[1])), None, None, to_weight


_distance_map_op = register_op(
    "distance_map(Tensor features, Tensor prototypes, str metric, str backend, Tensor? patch_weight=None) -> Tensor",
    implementation=_implementation,
    fake=_fake,
    function=_DistanceMapFunction,
)
_backward_op = register_op(
    "distance_map_backward(Tensor grad, Tensor features, Tensor prototypes, str metric, bool need_features, "
    "bool need_prototypes) -> (Tensor, Tensor)",
    # Two matrix products: torch's are as fast as any backend's own, so all backends share them.
    implementation=reference.distance_map_backward,
    fake=fake_gradients,
    function=no_second_derivative("distance_map_backward"),
)
