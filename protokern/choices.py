"""The names that settings may have as values. What each of them means is defined where it is computed.

Kept apart from that, so that settings are checked before torch is imported, which takes seconds.
"""

from __future__ import annotations

from typing import Literal, get_args

ActivationName = Literal["log", "linear", "exp", "cosine", "exp_root"]
ACTIVATIONS: tuple[ActivationName, ...] = get_args(ActivationName)
MetricName = Literal["sqeuclidean", "cosine", "dot"]
METRICS: tuple[MetricName, ...] = get_args(MetricName)
# From the most to the least precise.
PrecisionName = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
AddOnName = Literal["regular", "bottleneck", "single", "single_no_bias", "linear"]
ADD_ONS: tuple[AddOnName, ...] = get_args(AddOnName)
# That topk_pool finds for one prototype and image.
MOST_PATCHES = 8
MOST_EPOCHS = 1_000_000  # of a stage; the plan has a step for each
