"""Add-on layers: the original's layer lists, initialisation and errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from protokern.nn import make_add_on_layers


def describe(layers: nn.Sequential) -> list[str]:
    """Each layer in a word: "64>32" for a convolution, else its class name."""
    return [f"{x.in_channels}>{x.out_channels}" if isinstance(x, nn.Conv2d) else type(x).__name__ for x in layers]


@pytest.mark.parametrize(
    ("kind", "in_channels", "dim", "expected"),
    [
        ("regular", 512, 128, ["512>128", "ReLU", "128>128", "Sigmoid"]),
        ("single", 512, 128, ["512>128", "Sigmoid"]),
        ("linear", 512, 128, ["512>128"]),
        # The example worked out from the released program.
        ("bottleneck", 512, 128, ["512>256", "ReLU", "256>256", "ReLU", "256>128", "ReLU", "128>128", "Sigmoid"]),
        ("bottleneck", 300, 128, ["300>150", "ReLU", "150>150", "ReLU", "150>128", "ReLU", "128>128", "Sigmoid"]),
        ("bottleneck", 128, 128, ["128>128", "ReLU", "128>128", "Sigmoid"]),
        ("bottleneck", 32, 128, ["32>128", "ReLU", "128>128", "Sigmoid"]),
    ],
)
def test_layers_are_those_of_the_original(kind, in_channels, dim, expected):
    assert describe(make_add_on_layers(in_channels, dim, kind)) == expected


@pytest.mark.parametrize("kind", ["regular", "bottleneck", "single", "linear"])
def test_layers_start_kaiming_normal_fan_out_without_bias(kind):
    torch.manual_seed(0)
    for layer in make_add_on_layers(256, 128, kind):
        if isinstance(layer, nn.Conv2d):
            assert layer.kernel_size == (1, 1)
            assert (layer.bias == 0).all()
            wanted = (2 / layer.out_channels) ** 0.5
            assert layer.weight.std().item() == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("kind", ["regular", "bottleneck", "single"])
def test_features_are_between_zero_and_one(kind):
    features = make_add_on_layers(8, 4, kind)(torch.randn(2, 8, 3, 3) * 100)
    assert features.shape == (2, 4, 3, 3)
    assert features.min() >= 0
    assert features.max() <= 1


def test_unknown_kind():
    with pytest.raises(
        ValueError, match=r"add_on_layers: must be one of regular, bottleneck, single, linear; got 'wide'. Check"
    ):
        make_add_on_layers(8, 4, "wide")


@pytest.mark.parametrize(("in_channels", "dim", "name"), [(0, 4, "in_channels"), (4, 0, "prototype_dim")])
def test_channel_counts_must_be_positive(in_channels, dim, name):
    with pytest.raises(ValueError, match=f"{name}: must be at least 1; got 0. Give a channel count."):
        make_add_on_layers(in_channels, dim)
