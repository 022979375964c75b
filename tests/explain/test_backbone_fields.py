"""What `find_receptive_field` says of every backbone, against the pixels that a gradient reaches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from protokern.backbones import build_backbone, list_backbones
from protokern.explain import ReceptiveField, find_receptive_field

# 32 rows give most nets one row of cells. Deep nets see all of a short strip; for some the strip is as long as it takes
# for the first cell not to see its end.
ROWS, LENGTH = 32, 64
LENGTHS = {"resnet18": 224, "vgg11": 96, "vgg11_bn": 96, "tiny": 48}


def random_backbone(name: str) -> nn.Module:
    """A backbone of random weights, built without the initialisation that takes the VGGs seconds."""
    with torch.device("meta"):
        net = build_backbone(name, weights="none")
    net.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, parameter in net.named_parameters():
            if parameter.ndim > 1:
                fan_in = math.prod(parameter.shape[1:])
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * math.sqrt(2 / fan_in))
            else:
                parameter.fill_(0.0 if path.endswith("bias") else 1.0)
        for path, buffer in net.named_buffers():
            buffer.fill_(1.0 if path.endswith(("var", "std")) else 0)
    return net.eval()


def support(net: nn.Module, image: Tensor, cells: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """For each cell the smallest box (y0, x0, y1, x1) around the pixels with a gradient that is not zero."""
    pixels = image[None].clone().requires_grad_()
    features = net(pixels)
    boxes = []
    for row, column in cells:
        (gradient,) = torch.autograd.grad(features[0, :, row, column].sum(), pixels, retain_graph=True)
        reached = gradient[0].abs().sum(dim=0) > 0  # (Y, X)
        rows, columns = reached.any(dim=1).nonzero().flatten(), reached.any(dim=0).nonzero().flatten()
        boxes.append((int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1))
    return boxes


def corners_and_middle(field: ReceptiveField) -> list[tuple[int, int]]:
    rows, columns = len(field.rows), len(field.columns)
    return sorted({(0, 0), (0, columns - 1), (rows // 2, columns // 2), (rows - 1, 0), (rows - 1, columns - 1)})


@pytest.mark.parametrize("name", list_backbones())
def test_the_field_is_the_support_of_the_gradient(name: str) -> None:
    net = random_backbone(name)
    image = torch.rand(3, ROWS, LENGTHS.get(name, LENGTH))
    field = find_receptive_field(net, image)
    cells = corners_and_middle(field)
    for cell, reached in zip(cells, support(net, image, cells), strict=True):
        assert reached == field.box(*cell), cell
    if name in LENGTHS:
        assert field.columns[0][1] < image.shape[2]
