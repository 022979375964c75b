"""Distances by the formula alone, in float64: an explicit loop over positions, nothing shared with the package."""

from __future__ import annotations

import torch
from torch import Tensor

# A similarity that fits the distances of the metric, for tests that need any.
SIMILARITY = {"sqeuclidean": "log", "cosine": "log", "dot": "linear"}
# Metrics of differences: equal vectors are at distance 0, nothing is nearer, and their gradient is 0.
DIFFERENCES = ("sqeuclidean", "cosine")


def distance_map(features: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    """(B, P, H', W') in float64, differentiable by plain autograd."""
    x = features.double()
    p = prototypes.double()
    if p.dim() == 2:
        p = p[:, :, None, None]
    height, width = p.shape[2:]
    rows = []
    for row in range(x.shape[2] - height + 1):
        cells = []
        for column in range(x.shape[3] - width + 1):
            window = x[:, None, :, row : row + height, column : column + width]  # (B, 1, D, h, w)
            cells.append({"sqeuclidean": _sqeuclidean, "cosine": _cosine, "dot": _dot}[metric](window, p))
        rows.append(torch.stack(cells, -1))
    return torch.stack(rows, -2)


def _sqeuclidean(x: Tensor, p: Tensor) -> Tensor:
    return ((x - p) ** 2).sum((-3, -2, -1))


def _cosine(x: Tensor, p: Tensor) -> Tensor:
    product = (x * p).sum((-3, -2, -1))
    squares = (x**2).sum((-3, -2, -1)) * (p**2).sum((-3, -2, -1))
    has_zero = squares == 0
    return torch.where(has_zero, 1.0, 1 - product / torch.where(has_zero, 1.0, squares).sqrt())


def _dot(x: Tensor, p: Tensor) -> Tensor:
    return -(x * p).sum((-3, -2, -1))


def activation(distance: Tensor, name: str, epsilon: float = 1e-4) -> Tensor:
    """Similarity as its paper writes it."""
    if name == "log":
        return torch.log((distance + 1) / (distance + epsilon))
    if name == "exp_root":
        return torch.exp(-torch.sqrt(distance + 1e-14))
    return {"linear": -distance, "exp": torch.exp(-distance), "cosine": 1 - distance}[name]


def weigh(distance: Tensor, weight: Tensor, metric: str) -> Tensor:
    """Weighted distances (B, P, H', W') of distances and weights (B, H', W') in float64; inf where the weight is 0.

    So that a similarity 1 - d, or exp(-d), or -d, is multiplied with the weight.
    """
    w = weight.double()[:, None].expand_as(distance)
    kept = torch.where(w == 0, 1, w)
    weighed = {
        "sqeuclidean": distance + torch.log(1 / kept),
        "cosine": 1 - w * (1 - distance),
        "dot": w * distance,
    }[metric]
    return torch.where(w == 0, torch.inf, weighed)
