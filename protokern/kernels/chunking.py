"""How the reference limits its memory, and keeps sums and products exact and in a fixed order, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from .metric import METRIC_TABLE
from .vectors import Vectors


def chunk_budget(device: torch.device) -> int:
    """Elements of one scratch tensor: about the cache of a core on the CPU, enough work per launch on other devices."""
    return 1 << 17 if device.type == "cpu" else 1 << 24


def chunks(total: int, length: int) -> list[slice]:
    """Consecutive slices of at most `length` that cover range(total)."""
    return [slice(start, min(start + length, total)) for start in range(0, total, length)]


def add_rows_(target: Tensor, row: Tensor, source: Tensor) -> None:
    """`target[row[i]] += source[i]` in a fixed order of `i`, on every device."""
    if target.device.type == "cpu":
        target.index_add_(0, row, source)
    else:
        target.index_put_((row,), source, accumulate=True)  # sorts by row; index_add_ would use atomics


def product_dtype(values: Tensor) -> torch.dtype:
    """Type for the matrix product: float64 if the user lets float32 products round to TF32 or bfloat16."""
    if values.dtype != torch.float32:
        return values.dtype
    backend = torch.backends.cuda if values.device.type == "cuda" else torch.backends.mkldnn
    return torch.float32 if backend.matmul.fp32_precision in ("none", "ieee") else torch.float64


def centre_of(p: Vectors, metric: str) -> Tensor:
    """Mean (K,) of the finite prototypes (P, K); subtracting it before a product saves digits.

    Zeros where a distance is the product, not a difference, and so changes with what is subtracted.
    """
    if METRIC_TABLE[metric].is_product:
        return p.values.new_zeros(p.values.shape[1])
    return torch.where(p.is_finite[:, None], p.values, 0).sum(0) / p.is_finite.sum().clamp_min(1)


def gradient_centre_of(p: Vectors, metric: str) -> Tensor:
    """The same (K,) for the products of a gradient; zeros where the metric's gradient is not one of differences."""
    return centre_of(p, metric) if METRIC_TABLE[metric].is_centred else p.values.new_zeros(p.values.shape[1])
