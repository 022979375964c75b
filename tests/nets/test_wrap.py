"""Networks of other programs, and one's own with a prototype layer, are explained like a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import protokern
from examples.own_layer import LooksLike
from protokern.explain import explain_image
from protokern.interop import accelerate
from protokern.nn import PrototypeLayer
from tests.explain.test_shown import Frames
from tests.interop.programs import PPNet
from tests.interop.test_released import backbone, pool_net, pp_net
from tests.report.test_page import read_page


class Wrong(LooksLike):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, patch = super().forward(images)
        return 2 * logits, patch


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = PrototypeLayer(3, 4), PrototypeLayer(3, 4)


class NoLinear(LooksLike):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pool = self.prototypes(self.features(images))
        return pool.activation @ self.scores.weight.T, pool.patch


def points_and_logits(net: protokern.nets.Net, image: Tensor) -> tuple[Tensor, Tensor]:
    item = explain_image(net.model, image)
    return torch.from_numpy(item.points), torch.from_numpy(item.logits)


@pytest.mark.parametrize("is_accelerated", [True, False])
@pytest.mark.parametrize("shape", [(8, 5, 1, 1), (8, 5, 2, 3)])
def test_a_released_net_is_explained_by_its_own_numbers(is_accelerated: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    program = PPNet(backbone(), shape, 2, 6).eval()
    network = accelerate(program) if is_accelerated else program
    net = protokern.wrap(network, ["wren", "jay"], image_size=(13, 11))
    image = torch.rand(3, 13, 11)
    with torch.no_grad():
        logits, distances = network(image[None])
    item = net.explain(image)
    torch.testing.assert_close(torch.from_numpy(item.logits), logits[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(item.points).sum(dim=0).float(), logits[0], atol=1e-4, rtol=1e-4)
    for evidence in item.classes[0].evidence:
        assert evidence.distance == pytest.approx(float(distances[0, evidence.view.prototype]), abs=1e-4)
        assert evidence.prototype.classes[0].class_name == ["wren", "jay"][evidence.view.prototype // 4]
    (frame,) = Frames(item._repr_html_()).found
    assert read_page(str(frame["srcdoc"]))["item"]["answer"] in ("wren", "jay")
    assert item.contrast("wren", "jay").difference == pytest.approx(float(logits[0, 0] - logits[0, 1]), abs=1e-4)


def test_training_goes_on_and_the_net_follows() -> None:
    network = pp_net().eval()
    net = protokern.wrap(network, image_size=(13, 11))
    image = torch.rand(3, 13, 11)
    with torch.no_grad():
        network.prototype_vectors.mul_(0.5)
        network.last_layer.weight.mul_(3)
        logits = network(image[None])[0][0]
    torch.testing.assert_close(points_and_logits(net, image)[1], logits, atol=1e-4, rtol=1e-4)


def test_a_layer_in_a_net_of_ones_own_is_found() -> None:
    torch.manual_seed(0)
    own = LooksLike()
    net = protokern.wrap(own, ["red", "green", "blue"], image_size=32)
    image = torch.rand(3, 32, 32)
    with torch.no_grad():
        logits, patch = own(image[None])
    points, answers = points_and_logits(net, image)
    torch.testing.assert_close(answers, logits[0])
    torch.testing.assert_close(points.sum(dim=0).float(), logits[0], atol=1e-5, rtol=1e-5)
    item = net.explain(image)
    for evidence in item.classes[0].evidence:
        row, column = evidence.view.patch
        assert row * 4 + column == int(patch[0, evidence.view.prototype])
    assert own.training  # as it was
    assert [len(card.classes) for card in net.prototypes] == (own.scores.weight.max(dim=0).values > 0).int().tolist()


def test_three_parts_make_a_net_and_a_bias_is_told_apart() -> None:
    torch.manual_seed(0)
    parts = (nn.Conv2d(3, 4, 8, stride=8), PrototypeLayer(5, 4), nn.Linear(5, 2))
    net = protokern.wrap(parts, image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    image = torch.rand(3, 32, 32)
    normal = (image - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    with torch.no_grad():
        logits = parts[2](parts[1](parts[0](normal[None])).activation)[0]
    item = net.explain(image)
    torch.testing.assert_close(torch.from_numpy(item.logits), logits, atol=1e-5, rtol=1e-5)
    bias = parts[2].bias.detach()
    torch.testing.assert_close(torch.from_numpy(item.points).sum(dim=0).float() + bias, logits, atol=1e-5, rtol=1e-5)
    for one in item.classes:
        assert one.bias == pytest.approx(float(bias[one.class_index]))
    contrast = item.contrast(0, 1)
    assert contrast.bias == pytest.approx(float(bias[0] - bias[1]))
    assert contrast.difference == pytest.approx(float(logits[0] - logits[1]), abs=1e-5)
    assert str(contrast).splitlines()[-1].endswith("difference of the biases")


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Wrong, {}, "net: must answer by its prototype layer and its last layer alone; Wrong gives other logits"),
        (TwoLayers, {}, "net: must have one PrototypeLayer, or be a released ProtoPNet; TwoLayers has 2"),
        (lambda: nn.Conv2d(3, 4, 2), {}, "net: must have one PrototypeLayer, .*; Conv2d has 0"),
        (NoLinear, {}, "net: must have one linear layer that takes the similarities of its prototypes; NoLinear has 0"),
        (lambda: (nn.Conv2d(3, 4, 8),), {}, r"net: must be a module, or \(backbone, .*; got 1 parts"),
        (pool_net, {}, "net: must have prototypes of its classes; a released ProtoPool has slots"),
        (LooksLike, {"classes": ["red"]}, "classes: must be 3 different names, as the net has logits; got 1"),
        (LooksLike, {"mean": (0.5,)}, r"mean, std: must be 3 numbers each, .*; got \(0.5,\) and None"),
        (
            LooksLike,
            {"class_identity": torch.ones(4, 3)},
            r"class_identity: must be \(P, K\) = \(12, 3\), .*; got \(4, 3\)",
        ),
    ],
)
def test_what_cannot_be_wrapped_is_refused(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        protokern.wrap(make(), **({"image_size": 32} | options))
