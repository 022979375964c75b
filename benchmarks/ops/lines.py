"""Lines that no unfused method can pass: the matrix product alone, and the product with one reduction."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

Call = Callable[[], Tensor]


def bare_product(features: Tensor, prototypes: Tensor, precision: str) -> Call:
    """`torch.mm` alone on operands that already lie right and are already rounded, into a kept output."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    patches = features.detach().permute(0, 2, 3, 1).reshape(-1, features.shape[1]).to(dtype).contiguous()  # (N, D)
    weights = prototypes.detach().t().to(dtype).contiguous()  # (D, P)
    product = output_buffer(len(patches), weights.shape[1], dtype, features.device)
    return lambda: torch.mm(patches, weights, out=product)


@lru_cache(maxsize=2)
def output_buffer(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Where products go. Nobody reads them, so all calls of one shape share it; it can take gigabytes."""
    return torch.empty(rows, columns, dtype=dtype, device=device)


def product_and_minimum(features: Tensor, prototypes: Tensor, precision: str) -> Call:
    """The bare product and one reduction over each image's patches: no norm, so no distance."""
    multiply = bare_product(features, prototypes, precision)
    images, cells = len(features), features.shape[2] * features.shape[3]
    return lambda: multiply().view(images, cells, -1).amin(dim=1)


LINES = {"mm": bare_product, "mm+min": product_and_minimum}
