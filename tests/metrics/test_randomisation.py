"""Maps of shuffled nets: by hand, against a slow program, and where the truth is known."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from protokern.metrics import Context, measure
from protokern.metrics.randomisation import rank_correlation, shuffle_weights
from protokern.models import ProtoPNet
from tests.explain.small_models import small_model
from tests.metrics import plain
from tests.metrics.marked import random_images


def test_correlations_by_hand() -> None:
    one = np.array([[1.0, 5.0], [3.0, 9.0]])
    assert rank_correlation(one, one**3) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert rank_correlation(one, np.array([[3.0, 1.0], [9.0, 5.0]])) == pytest.approx(1 - 6 * 10 / (4 * 15))
    assert math.isnan(rank_correlation(one, np.ones((2, 2))))


def test_correlations_against_a_slow_program() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        one, other = rng.integers(6, size=(2, 4, 5)).astype(float)  # with ties
        assert rank_correlation(one, other) == pytest.approx(
            plain.rank_correlation(one.ravel().tolist(), other.ravel().tolist())
        )


def test_shuffled_weights_are_the_same_numbers_in_another_order() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = copy.deepcopy(net)
    shuffle_weights(net, 1)
    for one, other in zip(net.parameters(), before.parameters(), strict=True):
        assert sorted(one.flatten().tolist()) == sorted(other.flatten().tolist())
    assert not torch.equal(net[0].weight, before[0].weight)
    again = copy.deepcopy(before)
    shuffle_weights(again, 1)
    assert torch.equal(net[0].weight, again[0].weight)
    shuffle_weights(again, 2)
    assert not torch.equal(net[0].weight, again[0].weight)


def test_over_a_data_set_against_a_slow_program() -> None:
    model, number = small_model(), 6
    images, labels = random_images(number)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loader = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    (result,) = measure(model, loader, number, only=["randomisation"], context=Context(subset=5, seed=3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert result.passes == 10
    prototypes = model.prototype_layer.prototypes.detach().double()
    for words, parts in (
        ("add-on layers", ["add_on_layers"]),
        ("backbone and add-on layers", ["backbone", "add_on_layers"]),
    ):
        other = copy.deepcopy(model).eval()
        for part in parts:
            generator = torch.Generator().manual_seed(3)
            for parameter in getattr(other, part).parameters():
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.data = parameter.data.flatten()[order].reshape(parameter.shape)
        likeness, same = [], []
        for index in np.random.default_rng(3).permutation(number)[:5].tolist():
            maps = []
            for net in (model, other):
                with torch.no_grad():
                    features = net.features(images[index][None])[0].double()
                maps.append(-((features[None] - prototypes[:, :, None, None]) ** 2).sum(dim=1))  # (P, 8, 8)
            label = int(labels[index])
            j = max(range(3 * label, 3 * label + 3), key=lambda j: float(maps[0][j].max()))
            flat = [one[j].flatten().tolist() for one in maps]
            likeness.append(plain.rank_correlation(*flat))
            same.append(flat[0].index(max(flat[0])) == flat[1].index(max(flat[1])))
        found = result.estimates[f"likeness of the map, {words} shuffled"]
        assert found.value == pytest.approx(np.mean(likeness), abs=1e-3)
        assert result.estimates[f"same patch, {words} shuffled"].value == pytest.approx(np.mean(same))


def test_a_net_whose_map_does_not_depend_on_its_weights_is_found_out() -> None:
    class _Bright(nn.Module):
        """Maps of the brightness, with a weight that is not used."""

        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.rand(5))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=1, keepdim=True)[:, :, ::4, ::4].expand(-1, 5, -1, -1)

    torch.manual_seed(0)
    model = ProtoPNet(
        _Bright(), 2, prototypes_per_class=2, prototype_dim=5, image_size=32, add_on_layers="linear"
    ).eval()
    model.add_on_layers = nn.Sequential()
    images, labels = random_images(4)
    (result,) = measure(model, [(images, labels % 2)], 4, only=["randomisation"])
    assert [number.value for number in result.estimates.values()] == pytest.approx([1.0] * 4)


def test_a_constant_map_has_no_likeness_and_is_told() -> None:
    model = small_model()
    loader = [(torch.full((2, 3, 32, 32), 0.5), torch.tensor([0, 1]))]
    model.backbone = nn.AvgPool2d(4)
    model.add_on_layers = nn.Sequential(nn.Conv2d(3, 5, 1))
    (result,) = measure(model, loader, 2, only=["randomisation"])
    assert result.skipped["images with a constant map"] == 2
