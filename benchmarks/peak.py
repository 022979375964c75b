"""The multiply-add rate of this machine, measured between the rounds of everything else: the line to be held to."""

from __future__ import annotations

import torch

NAME = "peak"
SOURCE = "in-cache torch.mm"
SIDE = 384
PRODUCTS = 8
BURST_GFLOP = PRODUCTS * 2e-9 * SIDE**3

_left, _right, _product = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE), torch.empty(SIDE, SIDE)


def burst() -> None:
    """A few float32 matrix products that stay in the cache, on all threads."""
    for _ in range(PRODUCTS):
        torch.mm(_left, _right, out=_product)
