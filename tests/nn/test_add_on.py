"""Add-on layers: the original's layer lists, initialisation, the length of salient features, and errors."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from protokern.nn import SalientLayers, make_add_on_layers


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
        ValueError,
        match=r"add_on_layers: must be one of regular, bottleneck, single, single_no_bias, linear; got 'wide'. Check",
    ):
        make_add_on_layers(8, 4, "wide")


@pytest.mark.parametrize(("in_channels", "dim", "name"), [(0, 4, "in_channels"), (4, 0, "prototype_dim")])
def test_channel_counts_must_be_positive(in_channels, dim, name):
    with pytest.raises(ValueError, match=f"{name}: must be at least 1; got 0. Give a channel count."):
        make_add_on_layers(in_channels, dim)


def plain_salience(maps: torch.Tensor, power: float) -> list[list[float]]:
    """(B, H * W) by loops over images and patches."""
    wanted = []
    for image in maps.double():
        lengths = [math.sqrt(sum(float(value) ** 2 for value in cell)) for cell in image.flatten(1).T]
        largest = max(lengths)
        wanted.append([1.0 if largest == 0 else (length / largest) ** power for length in lengths])
    return wanted


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["regular", "linear"])
def test_the_length_of_salient_features_is_the_salience_and_the_direction_stays(kind, power):
    maps = torch.randn(3, 8, 2, 3)
    maps[0, :, 1, 1] = 0
    maps[1, :, 0, 0] *= 100
    torch.manual_seed(1)
    salient = make_add_on_layers(8, 4, kind, salience=power)
    torch.manual_seed(1)
    plain = make_add_on_layers(8, 4, kind)
    assert isinstance(salient, SalientLayers)
    assert type(plain) is nn.Sequential
    assert list(salient.state_dict()) == list(plain.state_dict())

    nn.init.normal_(salient[-2 if kind == "regular" else -1].bias)
    plain.load_state_dict(salient.state_dict())
    features, directions = salient(maps), plain(maps)
    torch.testing.assert_close(features.norm(dim=1).flatten(1), torch.tensor(plain_salience(maps, power)))
    seen = features.norm(dim=1) > 0
    cosine = torch.nn.functional.cosine_similarity(features, directions, dim=1)
    torch.testing.assert_close(cosine[seen], torch.ones(int(seen.sum())))
    assert (features.norm(dim=1).flatten(1).amax(dim=1) - 1).abs().max() < 1e-6


def test_in_an_image_whose_map_is_zero_all_patches_count_alike():
    layers = make_add_on_layers(8, 4, "linear", salience=1.0)
    nn.init.normal_(layers[0].bias)
    features = layers(torch.zeros(2, 8, 2, 2))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, 2, 2))


def test_a_zero_vector_stays_one_and_has_no_gradient():
    layers = make_add_on_layers(8, 4, "linear", salience=1.0)  # its bias is 0
    maps = torch.randn(1, 8, 2, 2)
    maps[..., 0, 0] = 0
    maps.requires_grad_()
    features = layers(maps)
    assert (features[..., 0, 0] == 0).all()
    features.sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in (maps, *layers.parameters()))
    assert maps.grad is not None
    assert (maps.grad[..., 0, 0] == 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_patch_that_is_not_finite_spoils_itself_alone(value):
    layers = make_add_on_layers(8, 4, "regular", salience=2.0)
    maps = torch.randn(1, 8, 2, 2)
    maps[0, 3, 1, 0] = value
    is_bad = layers(maps).isnan().any(dim=1)
    assert is_bad.tolist() == [[[False, False], [True, False]]]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_gradients_of_salient_layers_are_finite_differences(power):
    layers = make_add_on_layers(5, 3, "regular", salience=power).double()
    maps = torch.randn(2, 5, 2, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layers.named_parameters()]

    def features(maps: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layers, dict(zip(names, parameters, strict=True)), (maps,))

    assert torch.autograd.gradcheck(features, (maps, *layers.parameters()))


def test_a_copy_of_salient_layers_gives_the_same_bits():
    layers, maps = make_add_on_layers(8, 4, salience=2.0), torch.randn(2, 8, 3, 3)
    assert torch.equal(copy.deepcopy(layers)(maps), layers(maps))
    assert repr(layers).startswith("SalientLayers(\n  power=2\n")


@pytest.mark.parametrize("salience", [-1.0, math.nan, math.inf])
def test_salience_must_be_a_power(salience):
    with pytest.raises(
        ValueError, match=r"salience: must be a finite number of at least 0; got (-1.0|nan|inf). Give 0 for none."
    ):
        make_add_on_layers(8, 4, salience=salience)
    with pytest.raises(ValueError, match=r"power: must be a finite number greater than 0; got .*Use nn.Sequential"):
        SalientLayers(nn.Conv2d(8, 4, 1), power=salience)
