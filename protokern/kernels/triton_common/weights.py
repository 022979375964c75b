"""The weights of patches as the kernels take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..geometry import compute_dtype
from ..metric import METRIC_TABLE
from .launch import launcher
from .weight_kernels import first_patches_kernel

_launch = launcher(first_patches_kernel)


class Weights(NamedTuple):
    """What a kernel is given of the weights of patches; None twice where there are none.

    Attributes:
        factors: (B, N), what the metric makes of the weights, in the dtype of the distances.
        first: (B, 2) int32, of each image the first patch with a weight above 0, and the first whose weight is NaN or
            outside of [0, 1]; 2^31 - 1 for none.
    """

    factors: Tensor | None
    first: Tensor | None


def prepare_weights(patch_weight: Tensor | None, features: Tensor, metric: str) -> Weights:
    """The weights (B, H', W') of the patches of `features` as `Weights`."""
    if patch_weight is None:
        return Weights(None, None)
    # The logarithm is torch's: that of a kernel is off by more, and here 1 is to give exactly 0.
    factors = METRIC_TABLE[metric].factor(patch_weight.to(compute_dtype(features.dtype)).flatten(1).contiguous())
    batch, positions = factors.shape
    first = torch.empty((batch, 2), dtype=torch.int32, device=factors.device)
    _launch(
        (batch,), factors=factors, first=first, num_positions=positions, METRIC=metric,
        BN=min(1024, max(16, triton.next_power_of_2(positions))), num_warps=4,
    )  # fmt: skip
    return Weights(factors, first)
