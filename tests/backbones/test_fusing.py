"""Fused nets say the same up to rounding, and are themselves again afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from protokern.backbones import build_backbone
from protokern.backbones.efficientnet_lite import SamePadConv2d
from protokern.backbones.fusing import can_fuse, fused_layers, run_fused
from tests.backbones.test_folding import worn


def modules_that_work(net: nn.Module, images: Tensor, kind: type[nn.Module]) -> int:
    """How many modules of a kind a pass runs through."""
    calls: list[int] = []
    hooks = [part.register_forward_hook(lambda *_: calls.append(1)) for part in net.modules() if isinstance(part, kind)]
    net(images)
    for hook in hooks:
        hook.remove()
    return len(calls)


@pytest.mark.parametrize(
    ("name", "size", "memory_format"),
    [
        ("efficientnet_lite0", (64, 64), torch.channels_last),
        ("efficientnet_lite0", (75, 97), torch.contiguous_format),
        ("resnet18", (33, 64), torch.channels_last),
        ("tiny", (32, 47), torch.contiguous_format),
    ],
)
def test_a_fused_net_says_the_same_and_comes_back(
    name: str, size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    net = worn(build_backbone(name, weights="none")).to(memory_format=memory_format)
    images = torch.rand(2, 3, *size).to(memory_format=memory_format)
    parts, state = list(net.named_modules()), {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        expected = net(images)
        with fused_layers(net):
            fused = net(images)
        # Rounding of float32 in some fifty layers.
        assert float((fused - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
        assert torch.equal(net(images), expected)
    assert list(net.named_modules()) == parts
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_nothing_of_efficientnet_but_its_convolutions_is_left() -> None:
    net, images = worn(build_backbone("efficientnet_lite0", weights="none")), torch.rand(1, 3, 64, 64)
    if not can_fuse(net):
        pytest.skip("this torch has no oneDNN")
    kinds = (SamePadConv2d, nn.BatchNorm2d, nn.ReLU6)
    with torch.no_grad():
        assert [modules_that_work(net, images, kind) for kind in kinds] == [49, 49, 33]
        with fused_layers(net):
            assert [modules_that_work(net, images, kind) for kind in kinds] == [0, 0, 0]


@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(3, 2, 8), (3, 2, 9), (5, 2, 8), (5, 1, 7), (2, 1, 5), (1, 2, 6)]
)
def test_zeros_are_added_where_the_plain_convolution_adds_them(kernel: int, stride: int, side: int) -> None:
    """Images of ones, weights of ones: each result is the number of pixels under the kernel."""
    net = nn.Sequential(SamePadConv2d(1, 1, kernel, stride, bias=False)).eval()
    nn.init.ones_(net[0].weight)
    rows = -(-side // stride)
    first = max((rows - 1) * stride + kernel - side, 0) // 2  # zeros above
    under = [len({*range(row * stride - first, row * stride - first + kernel)} & {*range(side)}) for row in range(rows)]
    with torch.no_grad(), fused_layers(net):
        found = net(torch.ones(1, 1, side, side))[0, 0]
    assert found.tolist() == [[float(one * other) for other in under] for one in under]


def test_values_are_cut_off_as_the_activation_says() -> None:
    for activation, wanted in ((nn.ReLU(), [0.0, 4.0, 9.0]), (nn.ReLU6(), [0.0, 4.0, 6.0]), (nn.GELU(), None)):
        net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), activation).eval()
        nn.init.constant_(net[0].weight, 2)
        values = torch.tensor([-3.0, 2.0, 4.5]).view(1, 1, 1, 3)
        with torch.no_grad():
            plain = net(values)
            with fused_layers(net):
                assert torch.equal(net(values), plain)
        if wanted is not None:
            assert plain.flatten().tolist() == wanted


def test_layers_that_someone_listens_to_are_called() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Identity(), nn.ReLU()).eval()
    heard: list[Tensor] = []
    for part in net:
        part.register_forward_hook(lambda module, given, result: heard.append(result.clone()))
    with torch.no_grad(), fused_layers(net):
        net(torch.full((1, 1, 1, 1), -5.0))
    assert len(heard) == 3
    between = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Identity(), nn.ReLU()).eval()
    nn.init.constant_(between[0].weight, 1)
    nn.init.constant_(between[0].bias, 0)
    between[1].register_forward_hook(lambda module, given, result: -result)
    with torch.no_grad(), fused_layers(between):
        assert between(torch.full((1, 1, 1, 1), -5.0)).item() == 5


def test_a_layer_used_twice_and_a_net_in_other_numbers_stay_as_they_are() -> None:
    shared = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(1, 1, 1), shared, nn.Conv2d(1, 1, 1), shared).eval()
    with torch.no_grad():
        images = torch.randn(1, 1, 4, 4)
        expected = net(images)
        with fused_layers(net):
            assert modules_that_work(net, images, nn.ReLU) == 2
            torch.testing.assert_close(net(images), expected)
    wide = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).double().eval()
    assert not can_fuse(wide)
    with torch.no_grad(), fused_layers(wide):
        assert modules_that_work(wide, images.double(), nn.Conv2d) == 1


def test_many_images_give_the_same_in_parts() -> None:
    net = worn(build_backbone("tiny", weights="none"))
    images = torch.rand(37, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(run_fused(net, images), net(images))


def test_what_is_not_finite_stays_so() -> None:
    """The ReLU of oneDNN makes 0 of NaN."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).eval()
    with torch.no_grad():
        assert run_fused(net, torch.full((1, 1, 1, 1), torch.nan)).isnan().all()
        net[0].weight.fill_(torch.nan)
        assert not can_fuse(net)
        with fused_layers(net):
            assert net(torch.ones(1, 1, 1, 1)).isnan().all()
