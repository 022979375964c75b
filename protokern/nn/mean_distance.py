"""Mean distance over the grid, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from protokern.kernels import distance_map, mean_activation
from protokern.kernels.geometry import compute_dtype


def mean_distance(
    features: Tensor,
    prototypes: Tensor,
    *,
    metric: str = "sqeuclidean",
    backend: str = "auto",
    patch_weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Mean over all patches of the distance to every prototype, without the map of them.

    The mean of |x - p|^2 over the patches x of an image is the spread of the patches around their mean m, plus |m -
    p|^2. Both are sums of squares of differences, so the result is never negative, and accurate where it is small. The
    mean of 1 - cos(x, p) is 1 - u . p / |p| with u the mean of the x / |x|; for prototypes larger than one cell, where
    the patches overlap, the fused `mean_activation` computes it. With weights w it is the mean of 1 - w cos(x, p), for
    which u is the mean of the w x / |x|.

    Args:
        features: (B, D, H, W).
        prototypes: (P, D) or (P, D, h, w); dtype and device of `features`, or under autocast any of the supported.
        metric: "sqeuclidean", "cosine" or "dot", whose mean is the distance from the mean patch.
        backend: see `protokern.min_distance`.
        patch_weight: (B, H', W') in [0, 1], for the cosine metric; None: all patches count alike.
        bias: (P,), for the dot metric; see `protokern.min_distance`.

    Returns:
        (B, P), float32 for half inputs, otherwise the wider dtype of the inputs. Differentiable in all three.

    Raises:
        ValueError: weights with another metric, or as `protokern.min_distance`.

    Source: Rymarczyk et al. 2022 (ProtoPool), section 3.2: the average in the focal similarity, as the released program
    takes it, of distances.
    """
    wide = features.to(compute_dtype(features.dtype))
    cells = prototypes if prototypes.ndim == 4 else prototypes[..., None, None]
    if patch_weight is not None:
        if metric != "cosine":
            raise ValueError(f"patch_weight: must be None with metric {metric!r}; got weights. Use metric 'cosine'.")
        directions = _directions(_patches(wide, (cells.shape[2], cells.shape[3])))  # (B, K, N)
        mean = (directions * patch_weight.to(wide.dtype).flatten(1)[:, None]).mean(2)  # (B, K)
        return 1 - mean @ _directions(cells.flatten(1).to(wide.dtype)).T
    if metric == "cosine" and cells.shape[2:] == (1, 1):
        return 1 - _directions(wide).mean((2, 3)) @ _directions(cells.flatten(1).to(wide.dtype)).T
    if metric != "sqeuclidean":
        mean = mean_activation(features, prototypes, activation="linear", metric=metric, backend=backend, bias=bias)
        return -mean
    patches = _patches(wide, (cells.shape[2], cells.shape[3]))  # (B, K, N)
    centre, spread = _centre_and_spread(patches)
    # The centres are laid out as the patches of one image: the gradients are then two plain matrix products.
    to_centre = distance_map(centre.T[None, :, :, None], cells.flatten(1).to(centre.dtype), backend=backend)
    return spread[:, None] + to_centre[0, :, :, 0].T


def _centre_and_spread(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean vector (B, K) of vectors (B, K, N), and their mean squared distance from it (B,).

    The loss keeps no differences for the backward pass, where plain squares would. The spread has no gradient through
    the mean, around which the differences add up to 0.
    """
    count = vectors.shape[2]
    centre = vectors.sum(2) / count  # unlike that of mean, the gradient of a sum is a view
    around = centre.detach()[..., None].expand_as(vectors)
    return centre, functional.mse_loss(vectors, around, reduction="none").sum((1, 2)) / count


def _directions(vectors: Tensor) -> Tensor:
    """Vectors (N, D, ...) divided by their length; those of length 0 stay 0 and have gradient 0, as in the ops."""
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    is_zero = length == 0
    return torch.where(is_zero, 0, vectors / torch.where(is_zero, 1, length))


def _patches(features: Tensor, size: tuple[int, int]) -> Tensor:
    """All patches of `size` (h, w) of features (B, D, H, W), as (B, D * h * w, H' * W')."""
    if size == (1, 1):
        return features.flatten(2)
    windows = features.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (B, D, H', W', h, w)
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)
