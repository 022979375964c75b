"""The public `topk_pool` and the registered op `protokern::topk_distance` that it is made of."""

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
    check_top_k,
)
from ..geometry import compute_dtype
from ..min_distance.op import several_patches_backward
from ..registration import below_autograd, refuse_transforms, register_op, register_result, tensors_needed
from ..similarity import activate


class TopKPool(NamedTuple):
    """Result of `topk_pool`.

    Attributes:
        activation: (B, P), mean similarity of the prototype to its k nearest patches.
        distance: (B, P, k), distances to those patches, ascending, >= 0 but under "dot".
        patch: (B, P, k) int64, flat indices row * W' + column of those patches.
    """

    activation: Tensor
    distance: Tensor
    patch: Tensor


register_result(TopKPool, "protokern.kernels.topk_pool.op.TopKPool")


def topk_pool(
    features: Tensor,
    prototypes: Tensor,
    k: int,
    *,
    activation: str | Callable[[Tensor], Tensor] = "log",
    epsilon: float = 1e-4,
    metric: str = "sqeuclidean",
    precision: str | None = None,
    backend: str = "auto",
    patch_weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> TopKPool:
    """Mean similarity of every prototype to its k nearest patches, with their distances and indices.

    What `prototype_pool` is for one patch, and with k = 1 the same numbers. Differentiable once in features, prototypes
    and weights, through `activation`, `distance` or both. Never allocates B x P x H x W.

    Args:
        features: feature maps, (B, D, H, W); as in `min_distance`.
        prototypes: (P, D) or (P, D, h, w); as in `min_distance`.
        k: how many patches, from 1 to 8 and no more than the grid has.
        activation: as in `prototype_pool`; a function takes the distances (B, P, k) and returns the similarities.
        epsilon: as in `prototype_pool`.
        metric: "sqeuclidean", "cosine" or "dot"; as in `min_distance`.
        precision: as in `min_distance`.
        backend: "auto", or a name from `available_backends()`.
        patch_weight: how much every patch counts, (B, H', W') in [0, 1]; as in `min_distance`. Where fewer than k
            patches of an image take part, the mean is over those, and the others have distance inf and the index of the
            nearest one.
        bias: (P,), for metric="dot" only; as in `min_distance`.

    Returns:
        TopKPool with `activation` (B, P) and `distance` (B, P, k), float32 for half inputs, else the dtype of the
        inputs, and `patch` (B, P, k) int64, the lower index first on a tie. A non-finite patch or prototype gives NaN
        and the index of the first such patch, k times.

    Raises:
        TypeError: an input is not a tensor.
        ValueError: as in `min_distance`, or `k`, `activation` or `epsilon` does not fit.
        BackendUnavailableError: `backend` was named but cannot run here.
    """
    refuse_transforms("topk_pool")
    check_activation(activation, metric)
    epsilon = check_epsilon(epsilon)
    features, prototypes = check_inputs(features, prototypes, metric)
    check_top_k(k, features, prototypes)
    patch_weight = check_patch_weight(patch_weight, features, prototypes)
    bias = check_bias(bias, prototypes, metric)
    check_names(backend, precision)
    value, patch = _topk_distance_op(features, prototypes, k, metric, precision, backend, patch_weight)
    value = value if bias is None else value - bias[:, None]
    missing = None if patch_weight is None or k == 1 else _is_missing(value, patch)
    distance = value if missing is None else value.masked_fill(missing, 0)
    if isinstance(activation, str):
        similarity = activate(distance, activation, epsilon)
    else:
        similarity = activation(distance)
        check_activation_result(similarity, value)
    return TopKPool(_mean(similarity, missing), value, patch)


def _is_missing(value: Tensor, patch: Tensor) -> Tensor:
    """Which entries (B, P, k) stand for no patch, because too few take part: at inf, and at the first one's patch."""
    is_first = torch.arange(patch.shape[2], device=patch.device) == 0
    return value.isinf() & (patch == patch[..., :1]) & ~is_first


def _mean(similarity: Tensor, missing: Tensor | None) -> Tensor:
    """Mean (B, P) of similarities (B, P, k) that are not missing."""
    if similarity.shape[2] == 1:
        return similarity[..., 0]
    if missing is None:
        return similarity.mean(-1)
    count = (~missing).sum(-1)
    total = similarity.masked_fill(missing, 0).sum(-1)
    # The same bits as a mean without missing ones.
    return torch.where(count == similarity.shape[2], similarity.mean(-1), total / count)


def _implementation(
    features: Tensor,
    prototypes: Tensor,
    k: int,
    metric: str,
    precision: str | None,
    backend: str,
    patch_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    inputs = (features, prototypes, k, metric)
    return dispatch.search("topk_pool", inputs, precision, backend, patch_weight)


def _fake(features: Tensor, prototypes: Tensor, k: int, *_settings: Any) -> tuple[Tensor, Tensor]:
    shape = (features.shape[0], prototypes.shape[0], k)
    value = features.new_empty(shape, dtype=compute_dtype(features.dtype))
    return value, features.new_empty(shape, dtype=torch.int64)


class _TopKDistanceFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        prototypes: Tensor,
        k: int,
        metric: str,
        precision: str | None,
        backend: str,
        patch_weight: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        inputs = (features, prototypes, k, metric, precision, backend, patch_weight)
        value, patch = below_autograd(_topk_distance_op, *inputs)
        ctx.save_for_backward(features, prototypes, patch, patch_weight)
        ctx.mark_non_differentiable(patch)
        ctx.set_materialize_grads(False)
        ctx.metric, ctx.backend = metric, backend
        return value, patch

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None:
            return (None,) * 7
        features, prototypes, patch, patch_weight = ctx.saved_tensors
        grad, k = grads[0], patch.shape[2]
        if patch_weight is not None and k > 1:  # entries that stand for no patch have no gradient
            repeats = torch.cat(
                [torch.zeros_like(patch[..., :1], dtype=torch.bool), patch[..., 1:] == patch[..., :1]], -1
            )
            grad = grad.masked_fill(repeats, 0)
        inputs = (features, prototypes, patch, ctx.metric, ctx.backend, tensors_needed(ctx), patch_weight)
        *to_inputs, to_weight = several_patches_backward(grad, *inputs)
        return *to_inputs, None, None, None, None, to_weight


_topk_distance_op = register_op(
    "topk_distance(Tensor features, Tensor prototypes, SymInt k, str metric, str? precision, str backend, "
    "Tensor? patch_weight=None) -> (Tensor, Tensor)",
    implementation=_implementation,
    fake=_fake,
    function=_TopKDistanceFunction,
)
