"""Models in plain operations answer as with the fused ops: every kind, both repairs, small grids, ties and copies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from protokern.interop.export.plain_net import PlainMaps, PlainNet, plain_head
from protokern.interop.export.plain_search import REPAIRS, PlainSearch
from protokern.models import ProtoPool, ProtoTree
from protokern.nn import PrototypeLayer
from tests.interop.export.nets import NETS, SIZE, make

COPY = math.log(1 / 1e-4)  # similarity "log" at distance 0: 9.2103
# Float32 nets in other orders of summing; similarities of one are compared with those of the other.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_a_net_answers_as_its_model(name: str, repair: str) -> None:
    model = make(name)
    net = PlainNet(model, repair).eval()
    for images in (torch.rand(3, 3, SIZE, SIZE), torch.rand(1, 3, SIZE + 13, SIZE + 6)):
        wanted, got = model(images), net(images)
        torch.testing.assert_close(got["logits"], wanted.logits, **CLOSE)
        torch.testing.assert_close(got["similarity"], wanted.activations, **CLOSE)
        assert torch.equal(got["patch"], wanted.patches)
        if "distance" in got:
            torch.testing.assert_close(got["distance"], wanted.min_distances, **CLOSE)
        grid = model.features(images).shape[2:]
        height, width = model.prototype_layer.prototype_size
        assert got["grid"].tolist() == [grid[0] - height + 1, grid[1] - width + 1]
        assert ("distance" in got) == ("pipnet" not in name)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_maps_are_those_of_the_layer(name: str) -> None:
    model = make(name)
    images, chosen = torch.rand(2, 3, SIZE, SIZE + 9), torch.tensor([5, 0, 3])
    layer = model.prototype_layer
    wanted = layer.activate(layer.distance_map(model.features(images), chosen))
    torch.testing.assert_close(PlainMaps(model).eval()(images, chosen)["map"], wanted, **CLOSE)


@pytest.mark.parametrize("repair", REPAIRS)
@torch.no_grad()
def test_a_copy_has_its_full_similarity_also_far_from_the_origin(repair: str) -> None:
    """Where the expanded formula loses half of it."""
    features = torch.randn(2, 128, 7, 7) + 10
    layer = PrototypeLayer(6, 128)
    places = torch.tensor([3, 48, 20, 11, 0, 30])
    layer.prototypes.copy_(features[1].flatten(1).T[places])
    search = PlainSearch(layer, repair)
    similarity, distance, patch = search(features)
    assert distance[1].tolist() == [0] * 6
    assert similarity[1].tolist() == pytest.approx([COPY] * 6, abs=1e-3)
    assert torch.equal(patch[1], places)
    rounded = features.square().sum(1).flatten(1)[1, 3] + layer.prototypes[0].square().sum()
    rounded = rounded - 2 * (features[1].flatten(1)[:, 3] @ layer.prototypes[0])
    assert float(rounded.abs()) > 1e-4  # what the expanded formula alone would give for a distance of 0


@torch.no_grad()
def test_the_lowest_of_equal_patches_is_the_nearest() -> None:
    features = torch.rand(1, 4, 2, 3)
    features[0, :, 1, 0] = features[0, :, 0, 1]  # patches 3 and 1
    layer = PrototypeLayer(1, 4)
    layer.prototypes.copy_(features[0, :, 1, 0][None] + 1e-3)
    assert PlainSearch(layer)(features).patch.tolist() == [[1]]


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (3, 1)])
@torch.no_grad()
def test_a_grid_may_have_fewer_patches_than_there_are_candidates(grid: tuple[int, int]) -> None:
    features, layer = torch.rand(2, 4, *grid), PrototypeLayer(5, 4)
    wanted, got = layer(features), PlainSearch(layer)(features)
    torch.testing.assert_close(got.distance, wanted.min_distance)
    assert torch.equal(got.patch, wanted.patch)


@torch.no_grad()
def test_zero_vectors_are_at_distance_one_under_cosine() -> None:
    """From everything, also from a zero prototype."""
    features = torch.randn(1, 4, 1, 3)
    features[:, :, 0, 1] = 0
    layer = PrototypeLayer(3, 4, metric="cosine", activation="cosine")
    layer.prototypes[1] = 0
    search = PlainSearch(layer)
    patches = search.patches(features)
    exact = search.exact(patches, torch.arange(3).expand(1, 3, 3))
    assert exact[0, :, 1].tolist() == [1, 1, 1]
    assert exact[0, 1].tolist() == [1, 1, 1]
    torch.testing.assert_close(exact, layer.distance_map(features).flatten(2))
    assert search.maps(features, torch.tensor([1, 2]))[0, 0, 0].tolist() == [0, 0, 0]


@torch.no_grad()
def test_a_pool_sees_nothing_special_in_an_image_of_one_colour() -> None:
    """Every patch is the prototype: its focal similarity is 9.21 - 9.21."""
    model = make("pool")
    assert isinstance(model, ProtoPool)
    features = torch.rand(1, 8, 1, 1).expand(1, 8, 5, 5).contiguous()
    model.prototype_layer.prototypes[0] = features[0, :, 0, 0]
    answers = plain_head(model, "topk")(features)
    assert float(answers["distance"][0, 0]) == 0
    assert float(answers["similarity"][0, 0]) == pytest.approx(0, abs=1e-3)


@torch.no_grad()
def test_a_tree_is_accurate_where_a_prototype_is_certainly_present() -> None:
    """Two leaves, a copy: the class of the side "absent" has the log probability log(1e-7), not that of rounding."""
    model = ProtoTree(nn.Conv2d(3, 4, 1), 2, depth=1, prototype_dim=8, image_size=4).eval()
    tree = model.last_layer
    tree.leaf_logits.copy_(torch.tensor([[50.0, -50.0], [-50.0, 50.0]]))
    features = torch.rand(1, 8, 2, 2)
    model.prototype_layer.prototypes[0] = features[0, :, 1, 1]
    logits = plain_head(model, "topk")(features)["logits"]
    assert logits[0].tolist() == pytest.approx([math.log(1e-7), 0], abs=1e-4)


def test_a_class_of_ones_own_is_refused_with_its_name() -> None:
    class Own(ProtoPool):
        pass

    model = make("pool")
    model.__class__ = Own
    message = r"model: must be one of ProtoPNet, TesNet, ProtoPool, ProtoTree, PIPNet to be exported; got a Own\."
    with pytest.raises(ValueError, match=message):
        PlainNet(model)


def test_nothing_of_the_model_is_changed() -> None:
    model = make("log")
    before: dict[str, Tensor] = {key: value.clone() for key, value in model.state_dict().items()}
    PlainNet(model).eval()(torch.rand(1, 3, SIZE, SIZE))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
