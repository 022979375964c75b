"""Relevance against the rules written out on dense matrices, in float64."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("zennit", reason="zennit is not installed")

from protokern.backbones import build_backbone
from protokern.backbones.efficientnet_lite import InvertedResidual
from protokern.errors import MissingPackageError
from protokern.explain import explain_image
from protokern.explain.relevance import NoRuleError, relevance_maps
from protokern.explain.similarity import Place
from protokern.models import PIPNet, ProtoPNet

SIDE = 12
PLACE = Place(1, (1, 2))


def backbone() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 5, 3, 2, 1), nn.ReLU())


def matrix_of(conv: nn.Conv2d, shape: tuple[int, ...], weight: Tensor) -> Tensor:
    """The matrix (outputs, inputs) of a convolution with other weights and no bias, column by column."""
    basis = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
    columns = torch.nn.functional.conv2d(basis, weight.double(), None, conv.stride, conv.padding)
    return columns.flatten(1).T


def back(relevance: Tensor, parts: Tensor) -> Tensor:
    """Share the relevance (outputs,) out in proportion to `parts` (outputs, inputs)."""
    total = parts.sum(dim=1)
    safe = torch.where(total.abs() < 1e-12, 1, total)
    return (parts * (torch.where(total.abs() < 1e-12, 0, relevance) / safe)[:, None]).sum(dim=0)


def by_hand(model: ProtoPNet, image: Tensor, shares, epsilon: bool) -> Tensor:
    """The relevance (Y, X) of the pixels, from the shares of the channels at the patch."""
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    first, second, add_on = convs
    with torch.no_grad():
        hidden = first(image[None]).relu()
        maps = second(hidden).relu()
        features = model.features(image[None])
        distance = model.prototype_layer.distance_map(features)[0, PLACE.prototype]
        similarity = float(model.prototype_layer.activate(distance)[PLACE.patch].abs())
    start = torch.zeros_like(features[0], dtype=torch.float64)
    seen = features[0, :, PLACE.patch[0], PLACE.patch[1]].double()
    share = shares(seen, model.prototype_layer.prototypes[PLACE.prototype].detach().double())
    start[:, PLACE.patch[0], PLACE.patch[1]] = share / share.sum() * similarity
    relevance = start.flatten()
    for conv, given in ((add_on, maps), (second, hidden)):
        parts = matrix_of(conv, given.shape[1:], conv.weight.detach()) * given.double().flatten()
        relevance = back(relevance, parts if conv is add_on and epsilon else parts.clamp_min(0))
    even = matrix_of(first, image.shape, torch.ones_like(first.weight))
    return back(relevance, even).reshape(image.shape).sum(dim=0)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "dot"])
def test_relevance_follows_the_rules(metric: str) -> None:
    activation = {"sqeuclidean": "log", "cosine": "cosine", "dot": "linear"}[metric]
    add_on = "single" if metric == "sqeuclidean" else "linear"
    settings = {"metric": metric, "activation": activation, "add_on_layers": add_on, "image_size": SIDE}
    model = ProtoPNet(backbone(), 2, prototypes_per_class=2, prototype_dim=4, **settings).eval()
    with torch.no_grad():
        model.add_on_layers[0].bias.zero_()  # so that a cosine's or a product's add-on layer gives what it shares out
    image = torch.rand(3, SIDE, SIDE)
    (heat,) = relevance_maps(model, image, [PLACE])
    shares = {"sqeuclidean": lambda x, p: 1 / ((x - p).square() + 1e-12)}.get(metric, lambda x, p: x * p)
    expected = by_hand(model, image, shares, epsilon=metric != "sqeuclidean").clamp_min(0)
    assert expected.sum() > 0
    np.testing.assert_allclose(heat, expected, rtol=2e-3, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "tiny"])
def test_without_biases_nothing_of_the_similarity_is_lost(name: str) -> None:
    """With the squared distance no relevance is negative, so the map has it all, past batch norms, pools and sums."""
    torch.manual_seed(0)
    net = build_backbone(name, weights="none")
    model = ProtoPNet(net, 2, prototypes_per_class=1, prototype_dim=8, add_on_layers="single", image_size=64).eval()
    image = torch.rand(3, 64, 64)
    (heat,) = relevance_maps(model, image, [Place(0, (1, 1))])
    with torch.no_grad():
        features = model.features(image[None])
        similarity = model.prototype_layer.activate(model.prototype_layer.distance_map(features))[0, 0, 1, 1]
    assert heat.sum() == pytest.approx(float(similarity), rel=0.01)


def test_the_blocks_of_efficientnet_share_relevance_between_a_sum_and_its_layers() -> None:
    """A block that adds nothing passes all relevance on, one that adds its input again passes on the same."""
    torch.manual_seed(0)
    net = InvertedResidual(4, 4, 3, 1, 6)
    model = ProtoPNet(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), net), 2, prototypes_per_class=1)
    model = model.eval()
    image = torch.rand(3, 16, 16)
    with torch.no_grad():
        net.layers[-1].weight.zero_()
    (heat,) = relevance_maps(model, image, [Place(0, (5, 6))])
    rows, columns = np.nonzero(heat)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(5, 6)}
    with torch.no_grad():
        net.layers[-1].weight.fill_(1)
    (wide,) = relevance_maps(model, image, [Place(0, (5, 6))])
    assert np.count_nonzero(wide) > 1


@pytest.mark.parametrize("name", ["resnet18", "tiny"])
def test_weights_modes_and_generators_stay(name: str) -> None:
    model = ProtoPNet(build_backbone(name, weights="none"), 2, prototypes_per_class=1, prototype_dim=8, image_size=64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    both = relevance_maps(model, image, [Place(0, (1, 1)), Place(1, (0, 1))])
    (alone,) = relevance_maps(model, image, [Place(1, (0, 1))])
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(both[1], alone)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_prototypes_that_are_channels_and_salience_are_explained() -> None:
    image = torch.rand(3, 32, 32)
    net = build_backbone("tiny", weights="none")
    pipnet = PIPNet(net, 2, num_prototypes=6, image_size=32).eval()
    salient = ProtoPNet(
        net, 2, prototype_dim=4, metric="cosine", activation="cosine", add_on_layers="linear", salience=1.0
    ).eval()
    for model in (pipnet, salient):
        explanation = explain_image(model, image, top=1, heat_map="prp")
        assert explanation.classes[0].evidence[0].view.heat_map.any()


def test_a_layer_without_a_rule_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.GELU())
    model = ProtoPNet(net, 2, prototypes_per_class=1, prototype_dim=4, image_size=16)
    with pytest.raises(NoRuleError, match=r'"prp" must have .* of the net; got GELU at backbone\.1'):
        explain_image(model, torch.rand(3, 16, 16), heat_map="prp")


def test_without_zennit_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zennit", None)
    for name in [name for name in sys.modules if name.startswith("zennit.")]:
        monkeypatch.delitem(sys.modules, name)
    model = ProtoPNet(backbone(), 2, prototypes_per_class=1, prototype_dim=4, image_size=SIDE)
    with pytest.raises(MissingPackageError, match=r"zennit.*Run pip install 'protokern\[explain\]'"):
        explain_image(model, torch.rand(3, SIDE, SIDE), heat_map="prp")
