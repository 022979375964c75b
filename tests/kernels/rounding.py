"""The rounding of tensor-core operands, bit for bit, on the CPU: what Triton's interpreter does not do.

A search rounds its factors and adds their products in float32. Here the products are added in float64, so that nothing
but the rounding of the factors shows.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Bits of float32's significand that a type lacks.
DROPPED_BITS = {"tf32": 13, "bf16": 16}


def rounded(values: Tensor, kind: str) -> Tensor:
    """Float32 values to the nearest TF32 or bfloat16 number, away from zero where two are as near."""
    return _keep_high_bits(values, DROPPED_BITS[kind], half=True)


def truncated(values: Tensor, kind: str) -> Tensor:
    """Float32 values cut to TF32 or bfloat16, as tensor cores do with factors that nobody rounded."""
    return _keep_high_bits(values, DROPPED_BITS[kind], half=False)


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 values as the sum of two bfloat16 numbers, up to 2^-17 of them."""
    high = rounded(values, "bf16")
    return high, rounded(values - high, "bf16")


def search_products(p: Tensor, x: Tensor, precision: str) -> Tensor:
    """Products (P, N) of p (P, K) and x (N, K) as a search in `precision` forms them, in float64."""
    if precision == "fp32":
        p_high, p_low = (part.double() for part in split(p))
        x_high, x_low = (part.double() for part in split(x))
        return p_high @ x_high.T + p_high @ x_low.T + p_low @ x_high.T
    return rounded(p, precision).double() @ rounded(x, precision).double().T


def full_products(p: Tensor, x: Tensor) -> Tensor:
    """Products (P, N) of p (P, K) and x (N, K) in three TF32 parts, as a gradient forms them, in float64."""
    p_high, x_high = rounded(p, "tf32"), rounded(x, "tf32")
    p_low, x_low = truncated(p - p_high, "tf32").double(), truncated(x - x_high, "tf32").double()
    return p_high.double() @ x_high.double().T + p_high.double() @ x_low.T + p_low @ x_high.double().T


def search_distances(p: Tensor, x: Tensor, precision: str) -> Tensor:
    """Squared distances (P, N) in expanded form as a search sees them: centred, norms of unrounded vectors."""
    centre = p.mean(0)
    p, x = p - centre, x - centre
    norms = p.double().square().sum(1)[:, None] + x.double().square().sum(1)
    return norms - 2 * search_products(p, x, precision)


def _keep_high_bits(values: Tensor, dropped: int, *, half: bool) -> Tensor:
    bits = values.contiguous().view(torch.int32)
    if half:
        bits = bits + (1 << (dropped - 1))
    return (bits & -(1 << dropped)).view(torch.float32)
