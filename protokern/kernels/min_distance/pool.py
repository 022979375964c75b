"""The public `prototype_pool` and its registered op `protokern::prototype_pool`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import dispatch
from ..backends import check_names
from ..checks import (
    check_activation,
    check_activation_result,
    check_bias,
    check_epsilon,
    check_inputs,
    check_patch_weight,
)
from ..geometry import compute_dtype
from ..registration import below_autograd, refuse_transforms, register_op, register_result, tensors_needed
from ..similarity import slope
from .op import min_distance, min_distance_backward


class PrototypePool(NamedTuple):
    """Result of `prototype_pool`.

    Attributes:
        activation: (B, P), similarity of the prototype to its nearest patch.
        min_distance: (B, P), distance to that patch, >= 0 but under "dot".
        patch: (B, P) int64, flat index row * W' + column of that patch.
    """

    activation: Tensor
    min_distance: Tensor
    patch: Tensor


register_result(PrototypePool, "protokern.kernels.prototype_pool.op.PrototypePool")


def prototype_pool(
    features: Tensor,
    prototypes: Tensor,
    *,
    activation: str | Callable[[Tensor], Tensor] = "log",
    epsilon: float = 1e-4,
    metric: str = "sqeuclidean",
    precision: str | None = None,
    backend: str = "auto",
    patch_weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> PrototypePool:
    """Similarity of every prototype to its nearest patch, with the distance and the patch, in one pass.

    The distance, the patch, the gradient and the memory are those of `min_distance`. Gradients may arrive through
    `activation`, `min_distance` or both.

    Args:
        features: feature maps, (B, D, H, W); as in `min_distance`.
        prototypes: (P, D) or (P, D, h, w); as in `min_distance`.
        activation: "log", log((d + 1) / (d + epsilon)); "linear", -d, the only name for metric="dot"; "exp", exp(-d);
            "exp_root", exp(-sqrt(d + 1e-14)); "cosine", 1 - d, for metric="cosine" only; or a function that takes the
            distances (B, P) and returns the similarities (B, P).
        epsilon: constant of "log", above 0; log(1 / epsilon) is the similarity at distance 0.
        metric: "sqeuclidean", "cosine" or "dot"; as in `min_distance`.
        precision: as in `min_distance`.
        backend: "auto", or a name from `available_backends()`.
        patch_weight: how much every patch counts, (B, H', W') in [0, 1]; as in `min_distance`. The similarity is that
            of the weighted distance.
        bias: (P,), for metric="dot" only; as in `min_distance`.

    Returns:
        PrototypePool with `activation` (B, P) and `min_distance` (B, P), float32 for half inputs, else the dtype of the
        inputs, and `patch` (B, P) int64.

    Raises:
        TypeError: an input is not a tensor.
        ValueError: as in `min_distance`, or `activation` or `epsilon` does not fit.
        BackendUnavailableError: `backend` was named but cannot run here.

    Source: Chen et al. 2019 (ProtoPNet), section 2.1.
    """
    refuse_transforms("prototype_pool")
    check_activation(activation, metric)
    epsilon = check_epsilon(epsilon)
    if not isinstance(activation, str):
        options: dict[str, Any] = {"metric": metric, "precision": precision, "backend": backend}
        nearest = min_distance(features, prototypes, patch_weight=patch_weight, bias=bias, **options)
        similarity = activation(nearest.value)
        check_activation_result(similarity, nearest.value)
        return PrototypePool(similarity, *nearest)
    features, prototypes = check_inputs(features, prototypes, metric)
    patch_weight = check_patch_weight(patch_weight, features, prototypes)
    check_names(backend, precision)
    settings = (metric, activation, epsilon, precision, backend)
    bias = check_bias(bias, prototypes, metric)
    found = PrototypePool(*_prototype_pool_op(features, prototypes, *settings, patch_weight))
    if bias is None:
        return found
    return PrototypePool(found.activation + bias, found.min_distance - bias, found.patch)  # the activation is linear


def _implementation(
    features: Tensor,
    prototypes: Tensor,
    metric: str,
    activation: str,
    epsilon: float,
    precision: str | None,
    backend: str,
    patch_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (features, prototypes, metric, activation, epsilon)
    return dispatch.search("prototype_pool", inputs, precision, backend, patch_weight)


def _fake(features: Tensor, prototypes: Tensor, *_settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    value = features.new_empty((features.shape[0], prototypes.shape[0]), dtype=compute_dtype(features.dtype))
    return torch.empty_like(value), value, torch.empty_like(value, dtype=torch.int64)


class _PrototypePoolFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, prototypes: Tensor, *settings: Any) -> tuple[Tensor, Tensor, Tensor]:
        similarity, value, patch = below_autograd(_prototype_pool_op, features, prototypes, *settings)
        *_, patch_weight = settings
        ctx.save_for_backward(features, prototypes, patch, value, patch_weight)
        ctx.mark_non_differentiable(patch)
        ctx.set_materialize_grads(False)
        ctx.metric, ctx.activation, ctx.epsilon, _, ctx.backend, _ = settings
        return similarity, value, patch

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_activation, grad_value, _ = grads
        features, prototypes, patch, value, patch_weight = ctx.saved_tensors
        if grad_activation is not None:
            through = grad_activation * slope(value, ctx.activation, ctx.epsilon)
            grad_value = through if grad_value is None else grad_value + through
        if grad_value is None:
            return (None,) * 8
        inputs = (features, prototypes, patch, ctx.metric, ctx.backend, tensors_needed(ctx), patch_weight)
        *to_inputs, to_weight = min_distance_backward(grad_value, *inputs)
        return *to_inputs, None, None, None, None, None, to_weight


_prototype_pool_op = register_op(
    "prototype_pool(Tensor features, Tensor prototypes, str metric, str activation, float epsilon, "
    "str? precision, str backend, Tensor? patch_weight=None) -> (Tensor, Tensor, Tensor)",
    implementation=_implementation,
    fake=_fake,
    function=_PrototypePoolFunction,
)
