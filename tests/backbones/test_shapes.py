"""Shapes of the maps of a net that takes no memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from protokern.backbones.shapes import quick_shapes
from protokern.backbones.stages import find_earlier
from protokern.models.feature_shape import find_feature_shape


def make_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)),
    )


def test_shapes_need_no_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = find_feature_shape(make_net(), 3, (20, 12))
    assert wanted == (6, 5, 3)
    path = find_earlier(make_net(), -2, name="net", in_channels=3)
    with torch.device("meta"):
        net = make_net()
    monkeypatch.setattr(functional, "batch_norm", None)
    assert find_feature_shape(net, 3, (20, 12)) == wanted
    assert find_earlier(net, -2, name="net", in_channels=3) == path


def test_batch_norms_are_as_before_after_an_error() -> None:
    with torch.device("meta"):
        net = make_net()
    with pytest.raises(ZeroDivisionError), quick_shapes(net):
        raise ZeroDivisionError
    assert all("forward" not in vars(part) for part in net.modules())


def test_a_net_with_numbers_keeps_its_batch_norms() -> None:
    net = make_net().eval()
    nn.init.constant_(net[1].bias, 3.0)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        wanted = net(images)
        with quick_shapes(net):
            assert torch.equal(net(images), wanted)
