"""Argument checks of the public ops: shapes, types, devices and names."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..choices import ACTIVATIONS, METRICS, MOST_PATCHES
from .geometry import compute_dtype, grid_shape
from .metric import METRIC_TABLE

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_inputs(features: Tensor, prototypes: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Check the two tensors of every op and apply the autocast rule.

    Returns:
        `features` and `prototypes` as given; under autocast, where their types differ, both in the wider type.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: shapes, types, devices or `metric` do not fit.
    """
    for name, tensor in (("features", features), ("prototypes", prototypes)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: must be a torch.Tensor; got {type(tensor).__name__}.")
        if tensor.layout is not torch.strided:
            raise ValueError(f"{name}: must be a dense tensor; got layout {tensor.layout}. Call to_dense() on it.")
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name}: must be float64, float32, bfloat16 or float16; got {tensor.dtype}.")
    if metric not in METRICS:
        raise ValueError(f"metric: must be one of {', '.join(METRICS)}; got {metric!r}.")
    _check_shapes(features, prototypes)
    if prototypes.device != features.device:
        raise ValueError(
            f"prototypes: must be on the device of features, {features.device}; got {prototypes.device}. "
            "Move one of them."
        )
    if prototypes.dtype == features.dtype:
        return features, prototypes
    if not torch.is_autocast_enabled(features.device.type):
        raise ValueError(
            f"prototypes: must have the dtype of features, {features.dtype}; got {prototypes.dtype}. "
            "Convert one of them, or run under torch.autocast, which takes the wider type."
        )
    wider = torch.promote_types(features.dtype, prototypes.dtype)
    return features.to(wider), prototypes.to(wider)


def check_patch_weight(patch_weight: object, features: Tensor, prototypes: Tensor) -> Tensor | None:
    """Check the patch weights except their range; `features` and `prototypes` are already checked.

    Returns:
        The weights (B, H', W') in the type of the distances, a mask as zeros and ones; None for None.

    Raises:
        TypeError: `patch_weight` is not a tensor.
        ValueError: shape, type or device do not fit.
    """
    if patch_weight is None:
        return None
    if not isinstance(patch_weight, Tensor):
        raise TypeError(f"patch_weight: must be a torch.Tensor or None; got {type(patch_weight).__name__}.")
    if patch_weight.layout is not torch.strided:
        raise ValueError(
            f"patch_weight: must be a dense tensor; got layout {patch_weight.layout}. Call to_dense() on it."
        )
    wanted = (features.shape[0], *grid_shape(features, prototypes))
    if patch_weight.dim() != 3 or any(got != size for got, size in zip(patch_weight.shape, wanted, strict=True)):
        raise ValueError(
            f"patch_weight: must have shape {wanted}, one weight per image and patch of the grid; "
            f"got {tuple(patch_weight.shape)}."
        )
    wide = compute_dtype(features.dtype)
    fits = patch_weight.dtype in (torch.bool, features.dtype, wide)
    if not fits and not (patch_weight.dtype in DTYPES and torch.is_autocast_enabled(features.device.type)):
        names = " or ".join(str(dtype) for dtype in dict.fromkeys((wide, features.dtype)))
        raise ValueError(
            f"patch_weight: must be torch.bool or {names} to match features; got {patch_weight.dtype}. Convert it."
        )
    if patch_weight.device != features.device:
        raise ValueError(
            f"patch_weight: must be on the device of features, {features.device}; got {patch_weight.device}. Move it."
        )
    return patch_weight.to(wide)


def check_bias(bias: object, prototypes: Tensor, metric: str) -> Tensor | None:
    """Check what is added to the scores of the prototypes, which are already checked.

    Returns:
        The bias (P,) in the type of the distances, NaN where it is not finite; None for None.

    Raises:
        TypeError: `bias` is not a tensor.
        ValueError: shape, type or device do not fit, or the metric takes none.
    """
    if bias is None:
        return None
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias: must be a torch.Tensor or None; got {type(bias).__name__}.")
    if not METRIC_TABLE[metric].is_product:
        fitting = " or ".join(repr(name) for name, row in METRIC_TABLE.items() if row.is_product)
        raise ValueError(
            f"bias: must be None unless metric is {fitting}; got one with metric {metric!r}. Leave it out."
        )
    if bias.dim() != 1 or bias.shape[0] != prototypes.shape[0]:
        raise ValueError(
            f"bias: must have shape ({prototypes.shape[0]},), a number per prototype; got {tuple(bias.shape)}."
        )
    wide = compute_dtype(prototypes.dtype)
    if bias.dtype not in (prototypes.dtype, wide):
        names = " or ".join(str(dtype) for dtype in dict.fromkeys((wide, prototypes.dtype)))
        raise ValueError(f"bias: must be {names} to match prototypes; got {bias.dtype}. Convert it.")
    if bias.device != prototypes.device:
        raise ValueError(f"bias: must be on the device of prototypes, {prototypes.device}; got {bias.device}. Move it.")
    return bias.to(wide).masked_fill(~bias.isfinite(), torch.nan)


def check_epsilon(epsilon: float) -> float:
    """Check the constant of the log activation.

    Raises:
        ValueError: `epsilon` is not a finite number above 0.
    """
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon: must be a finite number above 0; got {epsilon!r}.")
    return float(epsilon)


def check_activation(activation: object, metric: str) -> None:
    """Check the name of an activation; callables pass.

    Raises:
        ValueError: the name is unknown or does not fit the metric.
    """
    if callable(activation):
        return
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: must be one of {', '.join(ACTIVATIONS)} or a callable; got {activation!r}.")
    if metric in METRICS and activation not in METRIC_TABLE[metric].activations:  # an unknown metric raises later
        fitting = " or ".join(repr(name) for name, row in METRIC_TABLE.items() if activation in row.activations)
        raise ValueError(
            f"activation: must not be {activation!r} unless metric is {fitting}; got metric {metric!r}. "
            "Choose another activation."
        )


def check_named_activation(activation: object, metric: str) -> None:
    """Check the activation of an op that computes it inside and takes no callables.

    Raises:
        ValueError: a callable, an unknown name, or a name that does not fit the metric.
    """
    if callable(activation):
        raise ValueError(
            f"activation: must be one of {', '.join(ACTIVATIONS)}; got a function. "
            "Apply it to protokern.distance_map(features, prototypes) and take the mean."
        )
    check_activation(activation, metric)


def check_top_k(k: object, features: Tensor, prototypes: Tensor) -> None:
    """Check the number of patches against the grid.

    Raises:
        ValueError: `k` is no whole number from 1 to 8, or more than the grid has.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST_PATCHES:
        raise ValueError(f"k: must be a whole number from 1 to {MOST_PATCHES}; got {k!r}.")
    rows, columns = grid_shape(features, prototypes)
    if k > rows * columns:
        raise ValueError(
            f"k: must be at most {rows * columns}, the patches of the {rows} x {columns} grid; got {k}. "
            "Ask for fewer, or use larger feature maps."
        )


def check_activation_result(similarity: object, distance: Tensor) -> None:
    """Check what a user's activation returned.

    Raises:
        ValueError: the result is not a tensor of the shape of `distance`.
    """
    if not isinstance(similarity, Tensor):
        raise ValueError(f"activation: must return a torch.Tensor; got {type(similarity).__name__}.")
    if similarity.shape != distance.shape:
        raise ValueError(
            f"activation: must return the shape it was given, {tuple(distance.shape)}; got {tuple(similarity.shape)}."
        )


def check_patch(patch: Tensor, features: Tensor, prototypes: Tensor) -> None:
    """Check the patch indices given to `distance_at`, except their range.

    Raises:
        TypeError: `patch` is not a tensor.
        ValueError: shape, type or device do not fit.
    """
    _check_index(patch, "patch", features.device)
    images, count = features.shape[0], prototypes.shape[0]
    if patch.dim() not in (2, 3) or patch.shape[0] != images or patch.shape[1] != count:
        raise ValueError(
            f"patch: must have shape ({images}, {count}) or ({images}, {count}, m), one index per image and prototype "
            f"or m of them; got {tuple(patch.shape)}."
        )


def check_prototype_index(prototype_index: Tensor, prototypes: Tensor) -> None:
    """Check the choice of prototypes given to `distance_map`, except its range.

    Raises:
        TypeError: `prototype_index` is not a tensor.
        ValueError: shape, type or device do not fit.
    """
    _check_index(prototype_index, "prototype_index", prototypes.device)
    if prototype_index.dim() != 1:
        raise ValueError(f"prototype_index: must have shape (P',); got {tuple(prototype_index.shape)}.")


def check_range(index: Tensor, name: str, size: int) -> None:
    """Check that every index is in [0, size). CPU only: on other devices the indexing of torch raises the error.

    Raises:
        ValueError: an index is out of range.
    """
    if index.device.type != "cpu" or index.numel() == 0:
        return
    low, high = (int(bound) for bound in index.aminmax())
    if low < 0 or high >= size:
        raise ValueError(f"{name}: must be in [0, {size}); got values from {low} to {high}.")


def _check_index(index: object, name: str, device: torch.device) -> None:
    if not isinstance(index, Tensor):
        raise TypeError(f"{name}: must be a torch.Tensor; got {type(index).__name__}.")
    if index.dtype != torch.int64:
        raise ValueError(f"{name}: must be int64; got {index.dtype}.")
    if index.device != device:
        raise ValueError(f"{name}: must be on {device}; got {index.device}.")


def _check_shapes(features: Tensor, prototypes: Tensor) -> None:
    if features.dim() != 4:
        raise ValueError(f"features: must have shape (B, D, H, W); got {tuple(features.shape)}.")
    if prototypes.dim() not in (2, 4):
        raise ValueError(f"prototypes: must have shape (P, D) or (P, D, h, w); got {tuple(prototypes.shape)}.")
    depth = features.shape[1]
    if depth == 0:
        raise ValueError(f"features: must have at least one channel; got {tuple(features.shape)}.")
    if prototypes.shape[1] != depth:
        wanted = f"(P, {depth})" if prototypes.dim() == 2 else f"(P, {depth}, h, w)"
        raise ValueError(
            f"prototypes: must have shape {wanted} to match features {tuple(features.shape)}; "
            f"got {tuple(prototypes.shape)}."
        )
    if features.shape[2] == 0 or features.shape[3] == 0:
        raise ValueError(f"features: must have at least one cell (H, W >= 1); got {tuple(features.shape)}.")
    if prototypes.dim() == 4 and (prototypes.shape[2] == 0 or prototypes.shape[3] == 0):
        raise ValueError(f"prototypes: must span at least one cell (h, w >= 1); got {tuple(prototypes.shape)}.")
    rows, columns = grid_shape(features, prototypes)
    if rows < 1 or columns < 1:
        raise ValueError(
            f"prototypes: must not be larger than the grid of features {tuple(features.shape)}; "
            f"got {tuple(prototypes.shape)}."
        )
