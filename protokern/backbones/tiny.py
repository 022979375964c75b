"""A four-layer convolutional net for small images, tests and the synthetic birds; it has no pretrained weights."""

from __future__ import annotations

from torch import nn

# (output channels, stride) of each 3x3 convolution; the map has 1/8 of the image size.
LAYERS = ((32, 2), (64, 2), (128, 2), (128, 1))


def build_tiny(*, in_channels: int = 3) -> nn.Sequential:
    """Net from (B, in_channels, Y, X) to (B, 128, ceil(Y / 8), ceil(X / 8)); a feature sees 31 x 31 pixels."""
    layers: list[nn.Module] = []
    for channels, stride in LAYERS:
        layers += [
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
        in_channels = channels
    return nn.Sequential(*layers)
