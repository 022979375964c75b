from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from protokern.explain.receptive_field import find_middle_field, find_receptive_field
from protokern.results.places import Box, share_of_image


def formula(layers: list[tuple[int, int, int]], size: int) -> list[tuple[int, int]]:
    """Chen et al.'s receptive_field.py for (kernel, stride, padding) layers: the independent reference.

    Exact where strides divide the size; elsewhere it counts pixels that only a cell outside the grid would read.
    """
    cells, jump, extent, start = size, 1, 1, 0.5
    for kernel, stride, padding in layers:
        cells = (cells - kernel + 2 * padding) // stride + 1
        extent += (kernel - 1) * jump
        start += ((kernel - 1) / 2 - padding) * jump
        jump *= stride
    centres = [start + cell * jump for cell in range(cells)]
    return [(max(int(c - extent / 2), 0), min(int(c + extent / 2), size)) for c in centres]


def build(layers: list[tuple[int, int, int]]) -> nn.Sequential:
    channels = [3, *([4] * len(layers))]
    modules: list[nn.Module] = []
    for (kernel, stride, padding), c_in, c_out in zip(layers, channels, channels[1:], strict=False):
        modules += [nn.Conv2d(c_in, c_out, kernel, stride, padding), nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*modules).eval()


@pytest.mark.parametrize(
    "layers",
    [
        [(3, 1, 1)],
        [(3, 2, 1), (3, 2, 1)],
        [(7, 2, 3), (3, 2, 1), (3, 1, 1)],
        [(5, 3, 0), (1, 1, 0)],
        [(2, 2, 0), (2, 2, 0), (3, 1, 1)],
    ],
    ids=["3x3", "two-strides", "resnet-stem", "no-padding", "even-kernels"],
)
def test_intervals_equal_the_published_formula(layers: list[tuple[int, int, int]]) -> None:
    field = find_receptive_field(build(layers), torch.rand(3, 32, 48))
    assert list(field.rows) == formula(layers, 32)
    assert list(field.columns) == formula(layers, 48)


def test_one_conv_by_hand() -> None:
    field = find_receptive_field(nn.Conv2d(1, 2, 3, stride=2, padding=1), torch.rand(1, 5, 5))
    assert field.rows == ((0, 2), (1, 4), (3, 5))
    assert field.box(0, 1) == Box(0, 1, 2, 4)
    assert field.box(0, 1, size=(2, 2)) == Box(0, 1, 4, 5)


def test_the_cell_in_the_middle_alone_and_its_share_of_the_image() -> None:
    layers = [(7, 2, 3), (3, 2, 1), (3, 1, 1)]
    net, image = build(layers), torch.rand(3, 32, 48)
    field = find_receptive_field(net, image)
    box = find_middle_field(net, image)
    assert box == field.box(4, 6)
    (y0, y1), (x0, x1) = formula(layers, 32)[4], formula(layers, 48)[6]
    assert field.share((32, 48)) == share_of_image(box, (32, 48)) == (y1 - y0) * (x1 - x0) / (32 * 48) < 1
    seen: list[int] = []

    def counted(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return net(images)

    find_middle_field(counted, image)
    assert sum(seen) < 40


def test_pooling_dead_relu_and_zero_weights_still_count() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Sigmoid())
    nn.init.zeros_(net[0].weight)
    nn.init.constant_(net[0].bias, -1.0)
    assert find_receptive_field(net, torch.rand(1, 8, 8)).rows == ((0, 3), (1, 5), (3, 7), (5, 8))


def test_a_branch_and_a_dilated_layer_take_the_widest_path() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow = nn.Conv2d(1, 1, 1)
            self.wide = nn.Conv2d(1, 1, 3, padding=4, dilation=4)

        def forward(self, images: Tensor) -> Tensor:
            return self.narrow(images) + self.wide(images)

    field = find_receptive_field(Branches(), torch.rand(1, 16, 16))
    assert field.rows[8] == (4, 13)
    assert field.rows[0] == (0, 5)


def test_squeeze_and_excitation_sees_the_whole_image() -> None:
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            features = self.conv(images)
            return features * features.mean(dim=(2, 3), keepdim=True).sigmoid()

    field = find_receptive_field(Squeeze(), torch.rand(1, 12, 9))
    assert set(field.rows) == {(0, 12)}
    assert set(field.columns) == {(0, 9)}


def test_it_covers_the_support_of_the_gradient() -> None:
    net = build([(3, 2, 1), (3, 1, 1), (3, 2, 1)])
    image = torch.rand(3, 40, 40)
    field = find_receptive_field(net, image)
    images = image[None].requires_grad_()
    net(images)[0, :, 4, 6].sum().backward()
    y, x = torch.nonzero(images.grad.abs().sum(dim=(0, 1)), as_tuple=True)
    box = field.box(4, 6)
    assert box.y0 <= y.min() <= y.max() < box.y1
    assert box.x0 <= x.min() <= x.max() < box.x1


def test_images_that_give_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="image: must give finite features"):
        find_receptive_field(nn.Conv2d(1, 1, 1), torch.full((1, 4, 4), torch.nan))


def test_nets_that_ignore_the_image_are_refused() -> None:
    def constant(images: Tensor) -> Tensor:
        return torch.ones(len(images), 2, 3, 3)

    with pytest.raises(ValueError, match="net: must make every cell of its features depend on the image"):
        find_receptive_field(constant, torch.rand(1, 8, 8))
