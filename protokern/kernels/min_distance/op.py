"""The public `min_distance`, its registered op `protokern::min_distance` and the backward op that others share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import dispatch
from ..backends import check_names
from ..checks import check_bias, check_inputs, check_patch_weight
from ..geometry import compute_dtype
from ..metric import weigh_gradient
from ..registration import (
    below_autograd,
    fake_gradients,
    no_second_derivative,
    only_needed,
    refuse_transforms,
    register_op,
    register_result,
    tensors_needed,
)
from .weight_gradient import min_distance_weight_backward, weight_at


class MinDistance(NamedTuple):
    """Result of `min_distance`.

    Attributes:
        value: (B, P), distance to the nearest patch, >= 0 but under "dot".
        patch: (B, P) int64, flat index row * W' + column of that patch.
    """

    value: Tensor
    patch: Tensor


register_result(MinDistance, "protokern.kernels.min_distance.op.MinDistance")


def min_distance(
    features: Tensor,
    prototypes: Tensor,
    *,
    metric: str = "sqeuclidean",
    precision: str | None = None,
    backend: str = "auto",
    patch_weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> MinDistance:
    """Distance from every prototype to its nearest patch, and which patch that is.

    Differentiable once in features, prototypes and weights; the gradient flows through the nearest patch only and is
    the same, bit for bit, on every run and for any number of threads. Never allocates B x P x H x W.

    Args:
        features: feature maps, (B, D, H, W), float64/float32/bfloat16/float16, any strides.
        prototypes: (P, D), or (P, D, h, w) for patches of h x w cells (stride 1, no padding, so H' = H - h + 1 and
            W' = W - w + 1); dtype and device of `features`. Under `torch.autocast` the dtypes may differ, and the
            wider one is used.
        metric: "sqeuclidean", sum (x - p)^2; "cosine", 1 - cos(x, p) with 1 for a zero vector; or "dot", -(sum x p +
            bias), the negative score of a projection, which may have either sign.
        precision: how coarse the search for the nearest patch may be: "fp32", "tf32" or "bf16". Where the backend lacks
            it, the next more precise one is used, so the same call runs on every machine; `protokern doctor` lists what
            is there. None allows what holds half inputs without loss, and for float32 inputs follows
            `torch.get_float32_matmul_precision()`. In every precision `value` is exact at `patch`; a coarse search may
            only take a patch that is nearly the nearest. float64 inputs are searched in float64.
        backend: "auto", or a name from `available_backends()`.
        patch_weight: how much every patch of the grid counts, (B, H', W') in [0, 1]: floating, of the dtype of features
            or float32 with half features, or bool. Distances d become (1 - w) + w d under "cosine", so that the
            similarity 1 - d becomes w (1 - d), d - log(w) under "sqeuclidean", so that exp(-d) becomes w exp(-d), and
            -(w sum x p + bias) under "dot", so that the patch counts as w times itself;
            the nearest patch is the one with the smallest weighted distance. A weight of 1 changes no bit. A patch of
            weight 0 (False) takes no part and is never chosen: padding, dropped tokens. None: all weights are 1.
        bias: what is added to the score of every prototype, (P,), of the dtype of the prototypes or of the result; for
            metric="dot" only. It has no part in the choice of the patch. None: 0.

    Returns:
        MinDistance with `value` (B, P): float32 for half inputs, else the dtype of the inputs; the difference form at
        `patch`, so exactly 0 for an exact copy but under "dot"; and `patch` (B, P) int64: the lowest index on a tie. A
        non-finite patch or prototype gives NaN and the index of the first such patch, and so does a weight that is NaN
        or outside of [0, 1]; the weight of a non-finite patch does not matter. A non-finite bias gives NaN. An image
        whose weights are all 0 has NaN and patch 0.

    Raises:
        TypeError: an input is not a tensor.
        ValueError: shapes, dtypes or devices disagree, the grid is empty, or a name is unknown.
        BackendUnavailableError: `backend` was named but cannot run here.

    Source: Chen et al. 2019 (ProtoPNet), section 2.1; maths in kernels/min_distance/README.md.
    """
    refuse_transforms("min_distance")
    features, prototypes = check_inputs(features, prototypes, metric)
    patch_weight = check_patch_weight(patch_weight, features, prototypes)
    bias = check_bias(bias, prototypes, metric)
    check_names(backend, precision)
    value, patch = _min_distance_op(features, prototypes, metric, precision, backend, patch_weight)
    return MinDistance(value if bias is None else value - bias, patch)


def min_distance_backward(
    grad_value: Tensor,
    features: Tensor,
    prototypes: Tensor,
    patch: Tensor,
    metric: str,
    backend: str,
    needs: tuple[bool, bool, bool],
    patch_weight: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the distance at `patch` (B, P) to features, prototypes and weights, None where not needed.

    Through registered ops, which know nothing of weights but what the last gradient is.
    """
    grad_weight = None
    if patch_weight is not None:
        if needs[2]:
            inputs = (grad_value, features, prototypes, patch, patch_weight, metric, backend)
            grad_weight = min_distance_weight_backward(*inputs)
        grad_value = grad_value * weigh_gradient(grad_value, weight_at(patch_weight, patch), metric)[0]
    if not any(needs[:2]):
        return None, None, grad_weight
    grads = _backward_op(grad_value, features, prototypes, patch, metric, backend, *needs[:2])
    return *only_needed(grads, needs[:2]), grad_weight


def several_patches_backward(
    grad_value: Tensor,
    features: Tensor,
    prototypes: Tensor,
    patch: Tensor,
    metric: str,
    backend: str,
    needs: tuple[bool, bool, bool],
    patch_weight: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """As `min_distance_backward`, of the distances at `patch` (B, P, m)."""
    # A prototype with m patches is m prototypes with one patch each. Their gradients are summed before they are rounded
    # to half.
    wide, several = grad_value.dtype, patch.shape[2]
    to_features, to_repeated, to_weight = min_distance_backward(
        grad_value.flatten(1),
        features.to(wide),
        prototypes.to(wide).repeat_interleave(several, 0),
        patch.flatten(1),
        metric,
        backend,
        needs,
        patch_weight,
    )
    if to_features is not None:
        to_features = to_features.to(features.dtype)
    if to_repeated is not None:
        shape = (prototypes.shape[0], several, *prototypes.shape[1:])
        to_repeated = to_repeated.view(shape).sum(1).to(prototypes.dtype)
    return to_features, to_repeated, to_weight


def _implementation(
    features: Tensor,
    prototypes: Tensor,
    metric: str,
    precision: str | None,
    backend: str,
    patch_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    inputs = (features, prototypes, metric)
    return dispatch.search("min_distance", inputs, precision, backend, patch_weight)


def _fake(
    features: Tensor,
    prototypes: Tensor,
    metric: str,
    precision: str | None,
    backend: str,
    patch_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    shape = (features.shape[0], prototypes.shape[0])
    value = features.new_empty(shape, dtype=compute_dtype(features.dtype))
    return value, features.new_empty(shape, dtype=torch.int64)


class _MinDistanceFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        prototypes: Tensor,
        metric: str,
        precision: str | None,
        backend: str,
        patch_weight: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        inputs = (features, prototypes, metric, precision, backend, patch_weight)
        value, patch = below_autograd(_min_distance_op, *inputs)
        ctx.save_for_backward(features, prototypes, patch, patch_weight)
        ctx.mark_non_differentiable(patch)
        ctx.set_materialize_grads(False)
        ctx.metric, ctx.backend = metric, backend
        return value, patch

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None:
            return (None,) * 6
        features, prototypes, patch, patch_weight = ctx.saved_tensors
        inputs = (features, prototypes, patch, ctx.metric, ctx.backend, tensors_needed(ctx), patch_weight)
        *to_inputs, to_weight = min_distance_backward(grads[0], *inputs)
        return *to_inputs, None, None, None, to_weight


def _backward_implementation(
    grad_value: Tensor,
    features: Tensor,
    prototypes: Tensor,
    patch: Tensor,
    metric: str,
    backend: str,
    need_features: bool,
    need_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    inputs = (grad_value, features, prototypes, patch, metric, need_features, need_prototypes)
    return dispatch.gradient("min_distance", inputs, backend)


_min_distance_op = register_op(
    "min_distance(Tensor features, Tensor prototypes, str metric, str? precision, str backend, "
    "Tensor? patch_weight=None) -> (Tensor, Tensor)",
    implementation=_implementation,
    fake=_fake,
    function=_MinDistanceFunction,
)
_backward_op = register_op(
    "min_distance_backward(Tensor grad_value, Tensor features, Tensor prototypes, Tensor patch, str metric, "
    "str backend, bool need_features, bool need_prototypes) -> (Tensor, Tensor)",
    implementation=_backward_implementation,
    fake=fake_gradients,
    function=no_second_derivative("min_distance_backward"),
)
