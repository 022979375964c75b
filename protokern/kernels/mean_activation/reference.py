"""The definition of `mean_activation` and of its gradient, in plain torch, for any device.

A matrix product gives the distances of a chunk of images to a chunk of prototypes. The close pairs, where the product
has lost digits, are computed once more by the difference form; so are their gradients. Memory stays O(B P + B D H W).
Letters as in geometry.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..candidates import Centred, centred, expanded
from ..chunking import add_rows_, chunk_budget, chunks, gradient_centre_of
from ..distance_map.reference import map_gradients
from ..geometry import compute_dtype, grid_shape, patch_vectors, prototype_size, sum_patch_vectors
from ..metric import distance, distance_gradient, distance_of, prepare, zero_pairs
from ..similarity import activate, slope
from ..vectors import Vectors

# A pair is close where the squared distance is below this share of the squared lengths: elsewhere the expanded form
# loses three bits at most.
CLOSE = 0.125


def mean_activation(features: Tensor, prototypes: Tensor, metric: str, activation: str, epsilon: float) -> Tensor:
    """Mean over the grid of the activation of the distance, (B, P)."""
    dtype = compute_dtype(features.dtype)
    size = prototype_size(prototypes)
    rows, columns = grid_shape(features, prototypes)
    p = prepare(prototypes.flatten(1).to(dtype), metric)
    centre = gradient_centre_of(p, metric)
    p_centred = centred(p, centre)
    result = features.new_empty((len(features), len(prototypes)), dtype=dtype)
    for images in _image_chunks(features, rows * columns, p):
        x = prepare(patch_vectors(features[images], size, dtype), metric)  # (b, N, K)
        x_centred = centred(x, centre)
        for chosen in _prototype_chunks(x, p):
            distances, _ = _distances(x, x_centred, p.select((chosen,)), p_centred.select(chosen), metric)
            result[images, chosen] = activate(distances, activation, epsilon).mean(-1)
    return result


def mean_activation_backward(
    grad: Tensor,
    features: Tensor,
    prototypes: Tensor,
    metric: str,
    activation: str,
    epsilon: float,
    need_features: bool,
    need_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients for `grad` (B, P), each shaped like its input, or (0,) where it is not needed.

    The distances are computed again. Images are summed in ascending order.
    """
    dtype = compute_dtype(features.dtype)
    size = prototype_size(prototypes)
    grid = grid_shape(features, prototypes)
    p = prepare(prototypes.flatten(1).to(dtype), metric)
    centre = gradient_centre_of(p, metric)
    p_centred = centred(p, centre)
    grad_features = torch.empty_like(features) if need_features else features.new_empty(0)
    grad_p = torch.zeros_like(p.values)
    for images in _image_chunks(features, grid[0] * grid[1], p):
        x = prepare(patch_vectors(features[images], size, dtype), metric)  # (b, N, K)
        x_centred = centred(x, centre)
        grad_x = torch.zeros_like(x.values)
        for chosen in _prototype_chunks(x, p):
            some = p.select((chosen,))
            distances, close = _distances(x, x_centred, some, p_centred.select(chosen), metric)
            weight = grad[images, chosen, None].to(dtype) / distances.shape[-1]
            weight = weight * slope(distances, activation, epsilon)  # (b, P, N)
            to_x, to_p = map_gradients(weight.masked_fill(close, 0), x, some, centre, metric)
            grad_x += to_x
            grad_p[chosen] += to_p
            _add_close_pairs(weight, close, x, some, metric, grad_x, grad_p[chosen])
        if need_features:
            grad_features[images] = sum_patch_vectors(grad_x, grid, size)
    if not need_prototypes:
        return grad_features, prototypes.new_empty(0)
    return grad_features, torch.empty_like(prototypes).copy_(grad_p.view(prototypes.shape))


def _image_chunks(features: Tensor, num_patches: int, p: Vectors) -> list[slice]:
    budget = chunk_budget(features.device)
    return chunks(len(features), max(1, budget // (num_patches * p.values.shape[1])))


def _prototype_chunks(x: Vectors, p: Vectors) -> list[slice]:
    batch, num_patches, depth = x.values.shape
    return chunks(len(p.values), max(1, chunk_budget(x.values.device) // (batch * max(num_patches, depth))))


def _distances(x: Vectors, x_centred: Centred, p: Vectors, p_centred: Centred, metric: str) -> tuple[Tensor, Tensor]:
    """Distances of x (b, N, K) and p (P, K), and which pairs are close, (b, P, N) each."""
    squared, norms = expanded(x_centred, p_centred)
    # A square that overflows leaves inf or NaN: the difference form knows which.
    close = ~(squared >= CLOSE * norms)
    has_zero = zero_pairs(x, p, metric)
    result = distance_of(squared.to(x.values.dtype), has_zero, metric)
    if has_zero is not None:
        close = close & ~has_zero
    is_finite = x.is_finite[:, None, :] & p.is_finite[:, None]
    close = close & is_finite
    result = result.masked_fill(~is_finite, torch.nan)
    image, prototype, position = close.nonzero(as_tuple=True)
    for some in _pair_chunks(position, x):
        pairs = _take_pairs(x, p, image[some], prototype[some], position[some])
        result[image[some], prototype[some], position[some]] = distance(*pairs, metric)
    return result, close


def _add_close_pairs(
    weight: Tensor, close: Tensor, x: Vectors, p: Vectors, metric: str, grad_x: Tensor, grad_p: Tensor
) -> None:
    """Add the gradients of the close pairs in difference form to `grad_x` (b, N, K) and `grad_p` (P, K)."""
    image, prototype, position = close.nonzero(as_tuple=True)  # ascending
    for some in _pair_chunks(position, x):
        pair = image[some], prototype[some], position[some]
        to_x, to_p = distance_gradient(weight[pair], *_take_pairs(x, p, *pair), metric)
        add_rows_(grad_x.flatten(0, 1), pair[0] * x.values.shape[1] + pair[2], to_x)
        add_rows_(grad_p, pair[1], to_p)


def _pair_chunks(pairs: Tensor, x: Vectors) -> list[slice]:
    return chunks(len(pairs), max(1, chunk_budget(pairs.device) // x.values.shape[2]))


def _take_pairs(x: Vectors, p: Vectors, image: Tensor, prototype: Tensor, position: Tensor) -> tuple[Vectors, Vectors]:
    return x.take(image * x.values.shape[1] + position), p.take(prototype)
