"""Channels as prototypes against a softmax over the channels, written out in float64."""

from __future__ import annotations

import math

import pytest
import torch

from protokern.nn import ChannelLayer, channel_pool


def share(features: torch.Tensor, image: int, channel: int, cell: int) -> float:
    """The softmax over the channels at a cell, by the definition."""
    column = features[image].flatten(1)[:, cell].tolist()
    powers = [math.exp(value - max(column)) for value in column]
    return powers[channel] / sum(powers)


@pytest.fixture
def features() -> torch.Tensor:
    torch.manual_seed(0)
    return 4 * torch.randn(3, 5, 2, 4)


def test_the_distance_is_that_of_the_cell_with_the_largest_share(features):
    channels = torch.tensor([4, 0, 2])
    distance, patch = channel_pool(features, channels)
    for image in range(3):
        for place, channel in enumerate(channels.tolist()):
            shares = [share(features, image, channel, cell) for cell in range(8)]
            best = max(range(8), key=lambda cell: shares[cell])
            assert int(patch[image, place]) == best
            assert float(distance[image, place]) == pytest.approx(-math.log(shares[best]), rel=1e-5, abs=1e-6)


def test_small_shares_keep_their_order():
    features = torch.zeros(1, 2, 1, 3)
    features[0, 0] = torch.tensor([[-300.0, -200.0, -250.0]])
    distance, patch = channel_pool(features, torch.tensor([0]))
    assert patch.tolist() == [[1]]
    assert distance.tolist() == [[200.0]]


def test_of_equal_cells_the_first_is_taken():
    assert channel_pool(torch.zeros(1, 3, 2, 2), torch.arange(3))[1].tolist() == [[0, 0, 0]]


def test_distances_are_never_negative():
    features = torch.full((1, 3, 1, 1), 88.0)
    features[0, 1:] = -88
    assert channel_pool(features, torch.arange(3))[0].min() >= 0


def test_all_methods_agree(features):
    layer = ChannelLayer(5)
    pool = layer(features)
    every = layer.distance_map(features)
    assert every.shape == (3, 5, 2, 4)
    assert torch.equal(every.flatten(2).amin(dim=2), pool.min_distance)
    assert torch.equal(layer.min_distance(features).value, pool.min_distance)
    assert torch.equal(layer.distance_at(features, pool.patch), pool.min_distance)
    torch.testing.assert_close(every.exp().reciprocal().sum(dim=1), torch.ones(3, 2, 4))
    torch.testing.assert_close(pool.activation, torch.softmax(features, dim=1).amax(dim=(2, 3)))
    index = torch.tensor([3, 1])
    nearest, patch = layer.nearest_distances(features, 3, index)
    assert torch.equal(nearest, every[:, index].flatten(2).sort(dim=2).values[..., :3])
    assert torch.equal(layer.distance_at(features, patch, index), nearest)


def test_the_gradient_is_that_of_the_softmax(features):
    ours, theirs = (features.double().clone().requires_grad_() for _ in range(2))
    weight = torch.randn(3, 5, dtype=torch.float64)
    (channel_pool(ours, torch.arange(5))[0].neg().exp() * weight).sum().backward()
    (torch.softmax(theirs, dim=1).flatten(2).amax(dim=2) * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_bits_do_not_depend_on_the_batch_or_the_format(features):
    torch.manual_seed(1)
    features = torch.randn(7, 37, 3, 5)
    whole, _ = channel_pool(features, torch.arange(37))
    single = torch.cat([channel_pool(one[None], torch.arange(37))[0] for one in features])
    assert torch.equal(single, whole)
    assert torch.equal(channel_pool(features.to(memory_format=torch.channels_last), torch.arange(37))[0], whole)


def test_what_is_dropped_stays_in_the_softmax(features):
    layer = ChannelLayer(5)
    before = layer(features).activation
    layer.keep_prototypes(torch.tensor([4, 1]))
    assert layer.num_prototypes == 2
    assert torch.equal(layer(features).activation, before[:, [4, 1]])


def test_the_type_of_the_model_is_followed(features):
    layer = ChannelLayer(5).double()
    assert layer.dtype == torch.float64
    assert layer.channels.dtype == torch.int64
    assert layer(features.double()).min_distance.dtype == torch.float64
    assert list(layer.state_dict()) == ["channels"]


def test_a_layer_has_a_channel():
    with pytest.raises(ValueError, match=r"num_channels: must be at least 1; got 0"):
        ChannelLayer(0)
