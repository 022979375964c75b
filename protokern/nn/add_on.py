"""The 1x1 convolutions between the backbone and the prototypes."""

from __future__ import annotations

from torch import nn

KINDS = ("regular", "bottleneck", "single", "linear")


def make_add_on_layers(in_channels: int, prototype_dim: int, kind: str = "regular") -> nn.Sequential:
    """Layers from (B, in_channels, H, W) to (B, prototype_dim, H, W).

    Weights start Kaiming normal (fan_out, relu), biases at 0.

    Args:
        in_channels: channels of the backbone's feature maps.
        prototype_dim: D, channels of the prototypes.
        kind: "regular" is conv, ReLU, conv, sigmoid; "bottleneck" halves the channels step by step down to D and ends
            in a sigmoid; "single" is one convolution and a sigmoid; "linear" is one convolution and nothing else, for
            the cosine metric.

    Raises:
        ValueError: unknown kind, or a channel count below 1.

    Source: Chen et al. 2019 (ProtoPNet), supplement; released `model.py` for "bottleneck";
        ProtoPool for "single".
    """
    for name, value in (("in_channels", in_channels), ("prototype_dim", prototype_dim)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1; got {value}. Give a channel count.")
    if kind not in KINDS:
        raise ValueError(f"add_on_layers: must be one of {', '.join(KINDS)}; got {kind!r}. Check the spelling.")
    layers: list[nn.Module]
    if kind == "linear":
        layers = [nn.Conv2d(in_channels, prototype_dim, 1)]
    elif kind == "single":
        layers = [nn.Conv2d(in_channels, prototype_dim, 1), nn.Sigmoid()]
    elif kind == "regular":
        layers = _conv_pair(in_channels, prototype_dim, nn.Sigmoid())
    else:
        layers = _bottleneck(in_channels, prototype_dim)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def _conv_pair(in_channels: int, out_channels: int, last: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 1), nn.ReLU(), nn.Conv2d(out_channels, out_channels, 1), last]


def _bottleneck(in_channels: int, prototype_dim: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = in_channels
    while channels > prototype_dim or not layers:
        out_channels = max(prototype_dim, channels // 2)
        layers += _conv_pair(channels, out_channels, nn.ReLU() if out_channels > prototype_dim else nn.Sigmoid())
        channels //= 2
    return layers
