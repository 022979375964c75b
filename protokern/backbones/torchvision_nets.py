"""Torchvision's classifiers without their last layers. Construction and ImageNet weights; no forward code."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from protokern.backbones.names import torchvision_name
from protokern.backbones.shapes import quick_shapes
from protokern.backbones.token_nets import TokenNet
from protokern.errors import import_optional

# Side in pixels of the image that finds the strides: large enough for every net here.
_PROBE = 64


def build_torchvision(name: str, *, in_channels: int = 3) -> nn.Module:
    """The net without pooling and classifier, with random weights; `name` may have sizes and a stride.

    ResNets end after `layer4`, VGGs after the last max-pool, DenseNets after `norm5` and a ReLU; ConvNeXt and
    EfficientNet give their `features`.
    """
    parts = torchvision_name(name)
    assert parts is not None
    net: Any = _build_net(parts.base)
    if parts.stride is not None:
        _end_halving(net, parts.stride)
    if parts.base.startswith("resnet"):
        body: nn.Module = nn.Sequential(OrderedDict(list(net.named_children())[:-2]))
    else:
        body = net.features
    if parts.base.startswith("densenet"):
        body.add_module("relu5", nn.ReLU(inplace=True))
    if in_channels != 3:
        _replace_first_conv(body, in_channels)
    return body


def _build_net(name: str) -> nn.Module:
    """A whole classifier by one of torchvision's names, or by sizes."""
    models = _models()
    family, *sizes = name.split("-")
    if not sizes:
        net: nn.Module = getattr(models, name)(weights=None)
    elif family == "resnet":
        kind, *blocks = sizes
        block = models.resnet.BasicBlock if kind == "basic" else models.resnet.Bottleneck
        net = models.ResNet(block, [int(size) for size in blocks])
    elif family == "densenet":
        growth, first, *counts = map(int, sizes)
        net = models.DenseNet(growth, tuple(counts), first)
    else:
        layers = [size if size == "M" else int(size) for size in sizes]
        net = nn.Sequential(OrderedDict(features=models.vgg.make_layers(layers, batch_norm=family == "vgg_bn")))
    return net


def _end_halving(net: nn.Module, stride: int) -> None:
    """Take all strides of convolutions as 1 that would lead beyond `stride` pixels from one cell to the next."""
    reached: dict[nn.Module, int] = {}  # pixels from one cell to the next after each convolution, in the net as it is

    def note(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        reached[layer] = _PROBE // output.shape[3]

    layers = [one for one in net.modules() if isinstance(one, nn.Conv2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    net.eval()
    with quick_shapes(net), torch.no_grad():
        net(torch.zeros(1, 3, _PROBE, _PROBE, device=layers[0].weight.device))
    net.train()
    for layer, hook in zip(layers, hooks, strict=True):
        hook.remove()
        if reached.get(layer, 0) > stride:
            layer.stride = (1, 1)


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
