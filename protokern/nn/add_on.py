"""The 1x1 convolutions between the backbone and the prototypes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from protokern.choices import ADD_ONS
from protokern.kernels.geometry import compute_dtype
from protokern.kernels.salience import lengths_of, share_of_largest

KINDS = ADD_ONS


class SalientLayers(nn.Sequential):
    """Add-on layers whose features say how much each patch counts: their length is the patch's salience.

    For the backbone's map z the feature of patch n is s(n) times the unit vector along layers(z) at n, with the
    salience s(n) = (|z_n| / max_m |z_m|) ** power, from 0 to 1. A `PrototypeLayer` with `norm_as_weight=True` reads it
    there, so that the similarity of a patch is s(n) times its cosine. The largest length is that of one image, over the
    patches that are not NaN, so a patch that is NaN affects only itself. If z is zero in every patch, all have salience
    1. A patch whose layers give a zero vector keeps it.

    Args:
        layers: as of `nn.Sequential`, whose state dict has the same keys.
        power: greater than 0; the larger, the less patches of small length count.

    Raises:
        ValueError: `power` is out of range.
    """

    def __init__(self, *layers: nn.Module, power: float) -> None:
        super().__init__(*layers)
        if not (math.isfinite(power) and power > 0):
            raise ValueError(f"power: must be a finite number greater than 0; got {power}. Use nn.Sequential for none.")
        self.power = power

    def forward(self, maps: Tensor) -> Tensor:
        """Features (B, D, H, W) of the backbone's maps (B, C, H, W)."""
        return self.weigh(super().forward(maps), maps)

    def weigh(self, features: Tensor, maps: Tensor) -> Tensor:
        """`features` (B, D, H, W), the layers' output for `maps` (B, C, H, W), scaled to their salience."""
        wide = features.to(compute_dtype(features.dtype))
        length = torch.linalg.vector_norm(wide, dim=1, keepdim=True)  # (B, 1, H, W)
        is_zero = length == 0
        factor = torch.where(is_zero, 0, _salience(maps, self.power).to(wide.dtype) / torch.where(is_zero, 1, length))
        return (wide * factor).to(features.dtype)

    def extra_repr(self) -> str:
        """The power, for `print(layers)`."""
        return f"power={self.power:g}"


def _salience(maps: Tensor, power: float) -> Tensor:
    """Salience (B, 1, H, W) of the patches of maps (B, C, H, W), float32 for half maps; its gradient at 0 is 0."""
    share = share_of_largest(lengths_of(maps))
    is_zero = share == 0
    return torch.where(is_zero, 0, torch.where(is_zero, 1, share) ** power)


def make_add_on_layers(
    in_channels: int, prototype_dim: int, kind: str = "regular", *, salience: float = 0.0
) -> nn.Sequential:
    """Layers from (B, in_channels, H, W) to (B, prototype_dim, H, W).

    Weights start Kaiming normal (fan_out, relu), biases at 0; those of "single_no_bias" Xavier normal.

    Args:
        in_channels: channels of the backbone's feature maps.
        prototype_dim: D, channels of the prototypes.
        kind: "regular" is conv, ReLU, conv, sigmoid; "bottleneck" halves the channels step by step down to D and ends
            in a sigmoid; "single" is one convolution and a sigmoid, "single_no_bias" the same without a bias;
            "linear" is one convolution and nothing else, for the cosine metric.
        salience: power of the salience of `SalientLayers`; 0: plain layers.

    Raises:
        ValueError: unknown kind, a channel count below 1, or a salience below 0.

    Source: Chen et al. 2019 (ProtoPNet), supplement; released `model.py` for "bottleneck";
        ProtoPool for "single"; ProtoTree for "single_no_bias".
    """
    for name, value in (("in_channels", in_channels), ("prototype_dim", prototype_dim)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1; got {value}. Give a channel count.")
    if kind not in KINDS:
        raise ValueError(f"add_on_layers: must be one of {', '.join(KINDS)}; got {kind!r}. Check the spelling.")
    if not (math.isfinite(salience) and salience >= 0):
        raise ValueError(f"salience: must be a finite number of at least 0; got {salience}. Give 0 for none.")
    layers: list[nn.Module]
    if kind == "linear":
        layers = [nn.Conv2d(in_channels, prototype_dim, 1)]
    elif kind == "single":
        layers = [nn.Conv2d(in_channels, prototype_dim, 1), nn.Sigmoid()]
    elif kind == "single_no_bias":
        layers = [nn.Conv2d(in_channels, prototype_dim, 1, bias=False), nn.Sigmoid()]
    elif kind == "regular":
        layers = _conv_pair(in_channels, prototype_dim, nn.Sigmoid())
    else:
        layers = _bottleneck(in_channels, prototype_dim)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            if layer.bias is None:
                nn.init.xavier_normal_(layer.weight)
                continue
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return SalientLayers(*layers, power=salience) if salience else nn.Sequential(*layers)


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
