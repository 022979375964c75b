"""Calls that between them make every Triton launch the package ships, on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from protokern.kernels.backends import PRECISIONS
from protokern.kernels.distance_at import triton_launch as distance_at
from protokern.kernels.distance_map import triton_launch as distance_map
from protokern.kernels.geometry import compute_dtype
from protokern.kernels.mean_activation import triton_backward as mean_backward
from protokern.kernels.mean_activation import triton_launch as mean_activation
from protokern.kernels.metric import METRIC_TABLE
from protokern.kernels.min_distance import triton_backward
from protokern.kernels.min_distance import triton_launch as min_distance
from protokern.kernels.topk_pool import triton_launch as topk_pool


@dataclass(frozen=True, slots=True)
class Problem:
    """A call.

    Attributes:
        name: for messages.
        call: makes it.
    """

    name: str
    call: Callable[[], object]


def inputs(
    depth: int, height: int, width: int, prototypes: int, dtype: torch.dtype, patch: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Features and prototypes of a call."""
    features = torch.empty((8, depth, height, width), dtype=dtype, device="meta")
    return features, torch.empty((prototypes, depth, *(patch or ())), dtype=dtype, device="meta")


def _fixed(dtype: torch.dtype, metric: str, patch: tuple[int, int] | None) -> list[Problem]:
    """Ops whose tiles do not depend on the sizes."""
    features, prototypes = inputs(128, 14, 14, 200, dtype, patch)
    at = torch.empty((8, 200), dtype=torch.int64, device="meta")
    name = f"{_name(dtype)} {metric} {patch or ''}".rstrip()
    return [
        Problem(f"distance_map {name}", lambda: distance_map.distance_map(features, prototypes, metric)),
        Problem(f"distance_at {name}", lambda: distance_at.distance_at(features, prototypes, at, metric)),
    ]


def _searches(
    features: Tensor, prototypes: Tensor, metric: str, precision: str, *, k: int = 5, channels_last: bool = False
) -> list[Problem]:
    """Ops that choose their tiles by the sizes, and the gradients of what they choose."""
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    at = torch.empty((len(features), len(prototypes)), dtype=torch.int64, device="meta")
    grad = torch.empty(at.shape, dtype=compute_dtype(features.dtype), device="meta")
    pair = (features, prototypes)
    name = f"{_name(features.dtype)} {tuple(features.shape)} {tuple(prototypes.shape)} {metric} {precision}"
    similarity = _similarity(metric)
    found = [
        Problem(
            f"prototype_pool {name}",
            lambda: min_distance.prototype_pool(*pair, metric, similarity, 1e-4, precision),
        ),
        Problem(
            f"min_distance_backward {name}",
            lambda: triton_backward.min_distance_backward(grad, *pair, at, metric, True, True),
        ),
        Problem(f"topk_distance {name}", lambda: topk_pool.topk_distance(*pair, k, metric, precision)),
    ]
    if METRIC_TABLE[metric].is_product:  # the mean is a closed form
        return found
    return [
        *found,
        Problem(
            f"mean_activation {name}", lambda: mean_activation.mean_activation(*pair, metric, "log", 1e-4, precision)
        ),
        Problem(
            f"mean_activation_backward {name}",
            lambda: mean_backward.mean_activation_backward(grad, *pair, metric, "log", 1e-4, True, True),
        ),
    ]


def _similarity(metric: str) -> str:
    """The first one that fits the metric: the logarithm, or the score of a product."""
    return METRIC_TABLE[metric].activations[0]


def _weighted(metric: str, size: tuple[int, int, int, int]) -> list[Problem]:
    """Searches in float32 with weights of the patches."""
    features, prototypes = inputs(*size, torch.float32)
    weight = torch.empty((len(features), *features.shape[2:]), device="meta")
    pair = (features, prototypes)
    name = f"{tuple(features.shape)} {tuple(prototypes.shape)} {metric} weighted"
    return [
        Problem(
            f"prototype_pool {name}",
            lambda: min_distance.prototype_pool(*pair, metric, _similarity(metric), 1e-4, "fp32", weight),
        ),
        Problem(f"topk_distance {name}", lambda: topk_pool.topk_distance(*pair, 5, metric, "fp32", weight)),
    ]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _all() -> list[Problem]:
    float32, float64, bfloat16, float16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
    found = []
    for dtype, metric, patch in (
        (float32, "sqeuclidean", None),
        (float32, "cosine", None),
        (float32, "dot", None),
        (float32, "sqeuclidean", (2, 2)),
        (bfloat16, "sqeuclidean", None),
        (float16, "cosine", None),
        (float64, "sqeuclidean", None),
        (float64, "cosine", (2, 2)),
    ):
        found += _fixed(dtype, metric, patch)
    for precision in PRECISIONS:
        for size in SIZES:
            found += _searches(*inputs(*size, float32), "sqeuclidean", precision)
        pair = inputs(*SIZES[0], float32)
        found.append(
            Problem(f"min_distance {precision}", partial(min_distance.min_distance, *pair, "sqeuclidean", precision))
        )
    found += _searches(*inputs(*SIZES[0], float32), "cosine", "fp32")
    found += _searches(*inputs(*SIZES[0], float32), "dot", "fp32")
    found += _searches(*inputs(*SIZES[0], float32, (2, 2)), "sqeuclidean", "fp32", k=8)
    found += _searches(*inputs(*SIZES[0], float32), "sqeuclidean", "fp32", k=1, channels_last=True)
    found += _searches(*inputs(*SIZES[0], bfloat16), "sqeuclidean", "bf16")
    found += _searches(*inputs(*SIZES[1], bfloat16), "cosine", "bf16")
    found += _searches(*inputs(*SIZES[0], float16), "sqeuclidean", "tf32")
    found += _searches(*inputs(*SIZES[0], float64), "sqeuclidean", "fp32")
    found += _weighted("sqeuclidean", SIZES[0])
    found += _weighted("cosine", SIZES[0])
    found += _weighted("dot", SIZES[0])
    found += _weighted("sqeuclidean", SIZES[2])
    return found


# Depth, grid and prototypes of the tasks of the papers; the rows of the table of tiles are made for these.
SIZES = ((128, 7, 7, 2000), (512, 14, 14, 2000), (64, 129, 65, 190), (256, 28, 28, 202))
PROBLEMS = _all()
