"""The public `mean_activation`, its registered op `protokern::mean_activation` and the op of its gradient."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..backends import check_names
from ..checks import check_bias, check_epsilon, check_inputs, check_named_activation
from ..distance_at.op import distance_at
from ..geometry import compute_dtype, grid_shape, prototype_size
from ..metric import METRIC_TABLE
from ..registration import (
    below_autograd,
    fake_gradients,
    no_second_derivative,
    only_needed,
    refuse_transforms,
    register_op,
)


def mean_activation(
    features: Tensor,
    prototypes: Tensor,
    *,
    activation: str = "log",
    epsilon: float = 1e-4,
    metric: str = "sqeuclidean",
    precision: str | None = None,
    backend: str = "auto",
    bias: Tensor | None = None,
) -> Tensor:
    """Mean of the similarity of every prototype over all patches of an image.

    With `prototype_pool` it makes the focal similarity of ProtoPool: the similarity to the nearest patch less this
    mean. Differentiable once in both inputs, at every patch; the backward computes the distances again. Never allocates
    B x P x H x W.

    Args:
        features: feature maps, (B, D, H, W); as in `min_distance`.
        prototypes: (P, D) or (P, D, h, w); as in `min_distance`.
        activation: "log", log((d + 1) / (d + epsilon)); "linear", -d; "exp", exp(-d); "exp_root",
            exp(-sqrt(d + 1e-14)); "cosine", 1 - d, for metric="cosine" only. metric="dot" takes "linear" alone.
        epsilon: constant of "log", above 0; log(1 / epsilon) is the similarity at distance 0.
        metric: "sqeuclidean", "cosine" or "dot"; as in `min_distance`.
        precision: how the distances are computed; as in `min_distance`. Whatever it is, those of close pairs, exact
            copies among them, are differences in full precision. The backward is in full precision.
        backend: "auto", or a name from `available_backends()`.
        bias: (P,), for metric="dot" only; as in `min_distance`.

    Returns:
        (B, P), float32 for half inputs, else the dtype of the inputs. A non-finite patch gives NaN for its image, a
        non-finite prototype for itself.

    Raises:
        TypeError: an input is not a tensor.
        ValueError: as in `min_distance`, or `activation` or `epsilon` does not fit.
        BackendUnavailableError: `backend` was named but cannot run here.

    Source: Rymarczyk et al. 2022 (ProtoPool), section 3.2.
    """
    refuse_transforms("mean_activation")
    check_named_activation(activation, metric)
    epsilon = check_epsilon(epsilon)
    features, prototypes = check_inputs(features, prototypes, metric)
    bias = check_bias(bias, prototypes, metric)
    check_names(backend, precision)
    if METRIC_TABLE[metric].is_product:
        return _mean_of_products(features, prototypes, metric, backend, bias)
    mean: Tensor = _mean_activation_op(features, prototypes, metric, activation, epsilon, precision, backend)
    return mean


def _mean_of_products(features: Tensor, prototypes: Tensor, metric: str, backend: str, bias: Tensor | None) -> Tensor:
    """The mean of the products is the product with the mean patch, which is all there is to the linear similarity."""
    wide = compute_dtype(features.dtype)
    features = features.to(wide)  # so that gradients are added up before they are rounded to half
    rows, columns = grid_shape(features, prototypes)
    height, width = prototype_size(prototypes)
    cells = [
        features[:, :, row : row + rows, column : column + columns].mean((2, 3))
        for row, column in itertools.product(range(height), range(width))
    ]
    mean_patch = torch.stack(cells, 2).unflatten(2, (height, width))  # (B, D, h, w)
    # Not the map of this one patch: libraries share such a product out among threads, and round by their number.
    only = torch.zeros(len(features), len(prototypes), dtype=torch.int64, device=features.device)
    return -distance_at(mean_patch, prototypes.to(wide), only, metric=metric, backend=backend, bias=bias)


def _implementation(
    features: Tensor,
    prototypes: Tensor,
    metric: str,
    activation: str,
    epsilon: float,
    precision: str | None,
    backend: str,
) -> Tensor:
    inputs = (features, prototypes, metric, activation, epsilon)
    return dispatch.search("mean_activation", inputs, precision, backend)


def _fake(features: Tensor, prototypes: Tensor, *_settings: Any) -> Tensor:
    return features.new_empty((features.shape[0], prototypes.shape[0]), dtype=compute_dtype(features.dtype))


class _MeanActivationFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, prototypes: Tensor, *settings: Any) -> Tensor:
        metric, activation, epsilon, _, backend = settings
        ctx.save_for_backward(features, prototypes)
        ctx.settings = (metric, activation, epsilon, backend)
        return below_autograd(_mean_activation_op, features, prototypes, *settings)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:2]
        grads = _backward_op(grad, *ctx.saved_tensors, *ctx.settings, *needs)
        return *only_needed(grads, needs), None, None, None, None, None


def _backward_implementation(
    grad: Tensor,
    features: Tensor,
    prototypes: Tensor,
    metric: str,
    activation: str,
    epsilon: float,
    backend: str,
    need_features: bool,
    need_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    inputs = (grad, features, prototypes, metric, activation, epsilon, need_features, need_prototypes)
    return dispatch.gradient("mean_activation", inputs, backend)


_mean_activation_op = register_op(
    "mean_activation(Tensor features, Tensor prototypes, str metric, str activation, float epsilon, "
    "str? precision, str backend) -> Tensor",
    implementation=_implementation,
    fake=_fake,
    function=_MeanActivationFunction,
)
_backward_op = register_op(
    "mean_activation_backward(Tensor grad, Tensor features, Tensor prototypes, str metric, str activation, "
    "float epsilon, str backend, bool need_features, bool need_prototypes) -> (Tensor, Tensor)",
    implementation=_backward_implementation,
    fake=fake_gradients,
    function=no_second_derivative("mean_activation_backward"),
)
