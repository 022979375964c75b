"""Add-on layers on the rows of a matrix, one row per patch, for maps in channels-last memory such as stored ones."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from protokern.nn.add_on import SalientLayers

_Steps = list[tuple[nn.Conv2d, type[nn.Module] | None]]

# Rows with a gradient are picked out in sixteenths of all, at most this many: for every new number of rows oneDNN
# compiles its products again, 20 ms each. If there are more, all rows are used.
_PARTS, _MOST_PARTS = 16, 8


def apply_to_rows(layers: nn.Sequential, maps: Tensor) -> Tensor:
    """What `layers(maps)` gives, up to rounding, with every 1x1 convolution computed as one product of matrices.

    On processors that is quicker in bfloat16, and no slower in float32, for maps in channels-last memory. There the
    backward pass of 1x1 convolutions, ReLU and sigmoid leaves out patches without a gradient, which are most of them
    where only the nearest patch of every prototype learns. Other layers are called as they are. `SalientLayers` scale
    the features after these products, and patches without a gradient stay without one.

    Args:
        layers: add-on layers, from (B, C, H, W) to (B, D, H, W).
        maps: (B, C, H, W).
    """
    features = _apply(layers, maps)
    return layers.weigh(features, maps) if isinstance(layers, SalientLayers) else features


def _apply(layers: nn.Sequential, maps: Tensor) -> Tensor:
    steps = _steps(layers) if maps.device.type == "cpu" and torch.is_grad_enabled() else None
    if steps is None or torch.compiler.is_compiling():
        return _apply_each(layers, maps)
    batch, channels, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1).reshape(-1, channels)  # (N, C)
    parameters = [parameter for product, _ in steps for parameter in (product.weight, product.bias)]
    rows = _RowLayers.apply(rows, [activation for _, activation in steps], *parameters)  # (N, D)
    return rows.view(batch, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def _apply_each(layers: nn.Sequential, maps: Tensor) -> Tensor:
    for layer in layers:
        if _is_product(layer):
            # A view by strides: its gradient has the memory layout of the weight, as data parallel training needs it.
            matrix = layer.weight.as_strided(layer.weight.shape[:2], layer.weight.stride()[:2])
            maps = F.linear(maps.permute(0, 2, 3, 1), matrix, layer.bias).permute(0, 3, 1, 2)
        else:
            maps = layer(maps)
    return maps


def _steps(layers: nn.Sequential) -> _Steps | None:
    """Each product with the activation after it, if any; None where the layers are not made of these."""
    steps: _Steps = []
    for layer in layers:
        if _is_product(layer):
            steps.append((layer, None))
        elif type(layer) in (nn.ReLU, nn.Sigmoid) and not _is_hooked(layer) and steps and steps[-1][1] is None:
            steps[-1] = (steps[-1][0], type(layer))
        else:
            return None
    return steps or None


def _is_product(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    if not isinstance(layer, nn.Conv2d) or _is_hooked(layer):
        return False
    return layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1


def _is_hooked(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(len(kind) > 0 for kind in hooks)


class _RowLayers(torch.autograd.Function):
    """Products and activations of rows (N, C), one after the other.

    The arguments after the rows are the activation after each product, then weight (D, C, 1, 1) and bias of each.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, activations: list[type[nn.Module] | None], *parameters: Tensor | None
    ) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else rows.dtype
        values = [rows.to(dtype)]
        weights = [weight.flatten(1).to(dtype) for weight in parameters[::2] if weight is not None]
        for weight, bias, activation in zip(weights, parameters[1::2], activations, strict=True):
            value = F.linear(values[-1], weight, None if bias is None else bias.to(dtype))
            # In place: the gradients of a product need what goes in, those of an activation what comes out.
            if activation is nn.ReLU:
                value.relu_()
            elif activation is nn.Sigmoid:
                value.sigmoid_()
            values.append(value)
        ctx.save_for_backward(*values, *weights)
        ctx.activations = activations
        ctx.parameters = [
            None if parameter is None else (parameter.shape, parameter.stride(), parameter.dtype)
            for parameter in parameters
        ]
        ctx.rows_dtype = rows.dtype
        return values[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.activations)
        values, weights = ctx.saved_tensors[: count + 1], ctx.saved_tensors[count + 1 :]
        needs_rows = ctx.needs_input_grad[0]
        chosen = _rows_with_gradient(grad)
        grads: list[Tensor | None] = []
        grad, value = _pick(grad, chosen), _pick(values[-1], chosen)
        for index in reversed(range(count)):
            if ctx.activations[index] is nn.ReLU:
                grad = torch.ops.aten.threshold_backward(grad, value, 0)
            elif ctx.activations[index] is nn.Sigmoid:
                grad = torch.ops.aten.sigmoid_backward(grad, value)
            value = _pick(values[index], chosen)
            grads += _parameter_grads(grad, value, *ctx.parameters[2 * index : 2 * index + 2])
            if index or needs_rows:
                grad = grad @ weights[index]
        if needs_rows and chosen is not None:
            grad = grad.new_zeros(values[0].shape).index_copy_(0, chosen, grad)
        return (grad.to(ctx.rows_dtype) if needs_rows else None), None, *reversed(grads)


def _rows_with_gradient(grad: Tensor) -> Tensor | None:
    """Index of the rows of `grad` (N, D) that are not zero, padded with other rows; None: too many to pick out."""
    # A sum of sizes is zero where all are, and takes a third of the time of `any`.
    has_gradient = grad.abs() @ grad.new_ones(grad.shape[1]) != 0
    size = -(-len(grad) // _PARTS)
    parts = -(-int(has_gradient.sum()) // max(size, 1))
    if parts > _MOST_PARTS:
        return None
    return torch.cat([has_gradient.nonzero()[:, 0], (~has_gradient).nonzero()[:, 0]])[: parts * size]


def _pick(rows: Tensor, chosen: Tensor | None) -> Tensor:
    return rows if chosen is None else rows.index_select(0, chosen)


def _parameter_grads(grad: Tensor, rows: Tensor, weight: Any, bias: Any) -> list[Tensor | None]:
    """Those of bias and weight, in this order, of a product whose result has the gradient `grad` (N, D)."""
    of_bias = None if bias is None else grad.sum(dim=0).to(bias[-1])
    # oneDNN takes the transposed gradient much faster in this layout.
    of_weight = grad.t().contiguous() @ rows  # (D, C)
    shape, strides, dtype = weight
    # With the strides of the weight, as data parallel training needs it; for a size of 1 they have no meaning.
    return [of_bias, of_weight.to(dtype).as_strided(shape, (shape[1], 1, *strides[2:]))]
