"""Weights at chosen patches, and the registered op that gives the gradient of weighted distances to the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ..chunking import add_rows_
from ..metric import weigh_gradient
from ..registration import below_autograd, no_second_derivative, register_op


def weight_at(patch_weight: Tensor, patch: Tensor) -> Tensor:
    """The weights (B, P) of the patches `patch` (B, P), of weights (B, H', W')."""
    return patch_weight.flatten(1).gather(1, patch)


def min_distance_weight_backward(
    grad_value: Tensor,
    features: Tensor,
    prototypes: Tensor,
    patch: Tensor,
    patch_weight: Tensor,
    metric: str,
    backend: str,
) -> Tensor:
    """Gradient (B, H', W') of the weighted distances at `patch` (B, P) to the weights, for `grad_value` (B, P).

    A patch has the sum over the prototypes that chose it, in ascending order; the others have 0. The distances are
    computed once more: in a weighted one that is near 1 their digits are lost.
    """
    return _op(grad_value, features, prototypes, patch, patch_weight, metric, backend)


def _implementation(
    grad_value: Tensor,
    features: Tensor,
    prototypes: Tensor,
    patch: Tensor,
    patch_weight: Tensor,
    metric: str,
    backend: str,
) -> Tensor:
    weight = weight_at(patch_weight, patch)
    distance = weight  # sqeuclidean does not need it
    if metric == "cosine":
        distance_at = torch.ops.protokern.distance_at.default
        distance = below_autograd(distance_at, features, prototypes, patch, metric, backend)
    grad = grad_value * weigh_gradient(distance, weight, metric)[1]
    result = torch.zeros(patch_weight.shape, dtype=patch_weight.dtype, device=patch_weight.device)
    if patch.device.type == "cpu":
        result.flatten(1).scatter_add_(1, patch, grad)  # an image at a time, in order, and far quicker than index_add_
        return result
    num_patches = patch_weight.shape[1] * patch_weight.shape[2]
    first = torch.arange(len(patch), device=patch.device)[:, None] * num_patches  # (B, 1)
    add_rows_(result.view(-1), (first + patch).flatten(), grad.flatten())
    return result


def _fake(
    grad_value: Tensor, features: Tensor, prototypes: Tensor, patch: Tensor, patch_weight: Tensor, *_settings: str
) -> Tensor:
    return patch_weight.new_empty(patch_weight.shape)


_op = register_op(
    "min_distance_weight_backward(Tensor grad_value, Tensor features, Tensor prototypes, Tensor patch, "
    "Tensor patch_weight, str metric, str backend) -> Tensor",
    implementation=_implementation,
    fake=_fake,
    function=no_second_derivative("min_distance_weight_backward"),
)
