"""The backbones that there are, by name. Torch is not imported here, so settings are checked quickly."""

from __future__ import annotations

import re
from typing import NamedTuple

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VGGS = tuple(f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn"))
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
OTHERS = ("convnext_tiny", "efficientnet_b0")
TORCHVISION = (*RESNETS, *VGGS, *DENSENETS, *OTHERS)
LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
TINY = "tiny"
TIMM_PREFIX = "timm/"
TORCHVISION_PREFIX = "torchvision/"
TRANSFORMERS = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
# Nets of torchvision's classes with blocks and channels of one's own, and the stride after which a map is not halved.
_SIZED = re.compile(
    r"resnet-(basic|bottleneck)(-[1-9]\d?){4}|vgg(_bn)?(-([1-9]\d{0,3}|M)){1,64}|"
    r"densenet(-[1-9]\d{0,3}){2}(-[1-9]\d?){1,8}"
)
_STRIDE = re.compile(r"(.+)-stride(4|8|16)")
WANTED = f"{TORCHVISION_PREFIX} and one of {', '.join(TRANSFORMERS)}, or {TIMM_PREFIX} and a name of timm's"


def list_backbones() -> tuple[str, ...]:
    """Names that `build_backbone` knows, besides "timm/" and a name of timm's, "torchvision/" and a transformer's.

    Those are `TRANSFORMERS`. Names may also have sizes or a stride, see `TorchvisionName`.
    """
    return (*TORCHVISION, *LITE, TINY)


class TorchvisionName(NamedTuple):
    """What the name of a convolutional net of torchvision says.

    Attributes:
        base: a name in `TORCHVISION`, or one with sizes, such as "resnet-bottleneck-3-4-6-4" (kind and number of the
            blocks of each stage), "vgg-64-M-128-M" (channels of the convolutions, M for a max-pool; "vgg_bn-..." with
            batch norms) or "densenet-32-64-6-12-24-16" (growth, channels of the first convolution, layers of each
            block).
        stride: pixels from one cell of the map to the next, at most: strides that would lead beyond are taken as 1, and
            the weights stay those of the net. None: as in the net.
    """

    base: str
    stride: int | None

    @property
    def family(self) -> str:
        """The base without its sizes."""
        return self.base.partition("-")[0]


def torchvision_name(name: str) -> TorchvisionName | None:
    """The parts of a name of a convolutional net of torchvision, such as "resnet50-stride8"; None for another name."""
    found = _STRIDE.fullmatch(name)
    base, stride = (found[1], int(found[2])) if found else (name, None)
    return TorchvisionName(base, stride) if base in TORCHVISION or _SIZED.fullmatch(base) else None


def is_timm(name: str) -> bool:
    """Whether a backbone's name belongs to a net of timm."""
    return name.startswith(TIMM_PREFIX) and len(name) > len(TIMM_PREFIX)


def is_transformer(name: str) -> bool:
    """Whether a backbone's name is that of a vision transformer of torchvision."""
    return name.startswith(TORCHVISION_PREFIX) and name.removeprefix(TORCHVISION_PREFIX) in TRANSFORMERS


def is_backbone(name: str) -> bool:
    """Whether `build_backbone` knows the name, as far as this is known without timm."""
    return name in list_backbones() or torchvision_name(name) is not None or is_timm(name) or is_transformer(name)


def has_imagenet_weights(name: str) -> bool:
    """Whether `weights="imagenet"` exists for backbone `name`."""
    if name in (TINY, f"{TORCHVISION_PREFIX}vit_h_14"):
        return False
    parts = torchvision_name(name)
    return parts is None or parts.base in TORCHVISION
