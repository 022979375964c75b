"""Torchvision's classifiers without their last layers. Construction and ImageNet weights; no forward code."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from protokern.backbones.names import DENSENETS, RESNETS
from protokern.backbones.token_nets import TokenNet
from protokern.errors import import_optional


def build_torchvision(name: str, *, in_channels: int = 3) -> nn.Module:
    """The net without pooling and classifier, with random weights.

    ResNets end after `layer4`, VGGs after the last max-pool, DenseNets after `norm5` and a ReLU; ConvNeXt and
    EfficientNet give their `features`.
    """
    models = _models()
    net = getattr(models, name)(weights=None)
    if name in RESNETS:
        body: nn.Module = nn.Sequential(OrderedDict(list(net.named_children())[:-2]))
    else:
        body = net.features
    if name in DENSENETS:
        body.add_module("relu5", nn.ReLU(inplace=True))
    if in_channels != 3:
        _replace_first_conv(body, in_channels)
    return body


def build_tokens(name: str, *, in_channels: int = 3) -> TokenNet:
    """A vision transformer without its classifier, with random weights; `name` is torchvision's own."""
    body = TokenNet(getattr(_models(), name)(weights=None))
    if in_channels != 3:
        _replace_first_conv(body, in_channels)
    return body


def _replace_first_conv(body: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by a new one with `in_channels`."""
    path, old = next((path, module) for path, module in body.named_modules() if isinstance(module, nn.Conv2d))
    options: dict[str, Any] = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    new = nn.Conv2d(in_channels, old.out_channels, **options, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    body.set_submodule(path, new)


def _models() -> Any:
    """torchvision.models, which is slow to import and needed only for these names.

    Raises:
        BrokenPackageError: torchvision was built for another torch.
    """
    return import_optional(
        "torchvision.models", package="torchvision", needed_for="the backbones of torchvision", install="torchvision"
    )


def imagenet_state(name: str) -> dict[str, Tensor]:
    """torchvision's ImageNet weights of `name` (`IMAGENET1K_V1`, those of the papers), downloaded through torch.hub."""
    get_state: Callable[..., dict[str, Tensor]] = _models().get_model_weights(name)["IMAGENET1K_V1"].get_state_dict
    return get_state(progress=True, check_hash=True)


def rename_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of a whole classifier's state dict to those without its last layers, which are dropped."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(("fc.", "classifier.", "heads.")):
            continue
        # The published DenseNet files still write `norm.1` for `norm1`.
        modern = re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key)
        renamed[modern.removeprefix("features.")] = value
    return renamed
