"""Folded nets say the same, and are themselves again afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from protokern.backbones import build_backbone
from protokern.backbones.efficientnet_lite import SamePadConv2d
from protokern.backbones.folding import folded_batch_norms


def worn(net: nn.Module) -> nn.Module:
    """The net with batch norms that have seen something: none of their numbers is 0 or 1."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value, low, high in (
                (part.running_mean, -0.2, 0.2),
                (part.running_var, 0.5, 1.5),
                (part.weight, 0.5, 1.5),
                (part.bias, -0.2, 0.2),
            ):
                if value is not None:
                    nn.init.uniform_(value, low, high)
    return net.eval()


def norms_that_work(net: nn.Module, images: Tensor) -> int:
    """How many batch norms a pass runs through."""
    calls = []
    hooks = [
        part.register_forward_hook(lambda *_: calls.append(1))
        for part in net.modules()
        if isinstance(part, nn.BatchNorm2d)
    ]
    net(images)
    for hook in hooks:
        hook.remove()
    return len(calls)


@pytest.mark.parametrize(
    ("name", "before", "within"), [("efficientnet_lite0", 49, 0), ("vgg11_bn", 8, 0), ("resnet18", 20, 16)]
)
def test_a_folded_net_says_the_same_and_comes_back(name: str, before: int, within: int) -> None:
    net = worn(build_backbone(name, weights="none"))
    images = torch.rand(2, 3, 64, 64)
    parts, state = list(net.named_modules()), {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        expected = net(images)
        assert norms_that_work(net, images) == before
        with folded_batch_norms(net):
            assert norms_that_work(net, images) == within
            folded = net(images)
        # Rounding of float32 in some fifty layers.
        assert float((folded - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
        assert torch.equal(net(images), expected)
    assert list(net.named_modules()) == parts
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_the_formula_by_hand() -> None:
    """(2 x + 1 - 3) / sqrt(4) * 5 + 7 with x = 10."""
    convolution, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0)
    for value, number in (
        (convolution.weight, 2),
        (convolution.bias, 1),
        (norm.running_mean, 3),
        (norm.running_var, 4),
        (norm.weight, 5),
        (norm.bias, 7),
    ):
        nn.init.constant_(value, number)
    net = nn.Sequential(convolution, norm).eval()
    with torch.no_grad(), folded_batch_norms(net):
        assert net[0](torch.full((1, 1, 1, 1), 10.0)).item() == net(torch.full((1, 1, 1, 1), 10.0)).item() == 52


class Standardised(nn.Conv2d):
    """Does more with its weights than to multiply."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.conv2d(input, self.weight / self.weight.norm(), self.bias)


def shared() -> nn.Module:
    convolution = nn.Conv2d(3, 3, 1)
    return nn.Sequential(convolution, nn.BatchNorm2d(3), convolution, nn.BatchNorm2d(3))


def hooked() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    net[0].register_forward_hook(lambda module, inputs, output: output.relu())
    return net


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(Standardised(3, 3, 1), nn.BatchNorm2d(3)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)),
        shared(),
        hooked(),
    ],
    ids=["own-forward", "no-statistics", "not-next", "shared", "hooked"],
)
def test_what_might_differ_is_left_alone(net: nn.Module) -> None:
    net = worn(net)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = net(images)
        with folded_batch_norms(net):
            assert torch.equal(net(images), expected)


def test_what_still_learns_is_left_alone_and_an_error_brings_the_net_back() -> None:
    net = worn(nn.Sequential(SamePadConv2d(3, 4, 3, 2), nn.BatchNorm2d(4)))
    parts = list(net.children())
    with pytest.raises(RuntimeError, match="channels"), folded_batch_norms(net):
        net(torch.rand(1, 5, 8, 8))
    assert list(net.children()) == parts
    net.train()
    with folded_batch_norms(net):
        assert list(net.children()) == parts
