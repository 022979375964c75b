"""Convolutions that pad as TensorFlow does ("same"), while a net is traced for images of any size.

How many zeros they need depends on whether a side is even, which a program for any size cannot know. In ONNX such a
convolution is one node, with the attribute `auto_pad`. Here it is one op, which no file contains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.backbones.efficientnet_lite import SamePadConv2d
from protokern.errors import import_optional


@torch.library.custom_op("protokern_export::same_conv2d", mutates_args=())
def same_conv2d(images: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], groups: int) -> Tensor:
    """A convolution of images (B, C, Y, X) to (B, C', ceil(Y / stride), ceil(X / stride))."""
    pads: list[int] = []
    for side, step, width in zip(reversed(images.shape[2:]), reversed(stride), reversed(weight.shape[2:]), strict=True):
        zeros = max((-(-side // step) - 1) * step + width - side, 0)
        pads += [zeros // 2, zeros - zeros // 2]
    return F.conv2d(F.pad(images, pads), weight, bias, stride, groups=groups)


@same_conv2d.register_fake
def _(images: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], groups: int) -> Tensor:
    rows, columns = ((side + step - 1) // step for side, step in zip(images.shape[2:], stride, strict=True))
    return images.new_empty(images.shape[0], weight.shape[0], rows, columns)


class _SameConv(nn.Module):
    """A `SamePadConv2d` as one op."""

    def __init__(self, layer: SamePadConv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.groups = list(layer.stride), layer.groups

    def forward(self, images: Tensor) -> Tensor:
        convolved: Tensor = same_conv2d(images, self.weight, self.bias, self.stride, self.groups)
        return convolved


@contextmanager
def same_convolutions(net: nn.Module) -> Iterator[None]:
    """Within the block, the convolutions of `net` that pad by the size of their images are one op each."""
    replaced = [
        (parent, name, part)
        for parent in list(net.modules())
        for name, part in list(parent.named_children())
        if is_padded_by_size(part)
    ]
    try:
        for parent, name, part in replaced:
            setattr(parent, name, _SameConv(part))  # type: ignore[arg-type]
        yield
    finally:
        for parent, name, part in replaced:
            setattr(parent, name, part)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How `torch.onnx.export` writes the op."""
    op = import_optional(
        "onnxscript", package="onnxscript", needed_for="the format onnx", install="'protokern[onnx]'"
    ).opset18

    def convolution(images: Any, weight: Any, bias: Any, stride: Any, groups: int) -> Any:
        return op.Conv(images, weight, bias, auto_pad="SAME_UPPER", strides=list(stride), group=groups)

    return {torch.ops.protokern_export.same_conv2d.default: convolution}


def is_padded_by_size(part: nn.Module) -> bool:
    """Whether a layer is a convolution whose zeros depend on the size of its images."""
    return isinstance(part, SamePadConv2d) and part.stride != (1, 1)
