"""The backbones that there are, by name. Torch is not imported here, so settings are checked quickly."""

from __future__ import annotations

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
WANTED = f"{TORCHVISION_PREFIX} and one of {', '.join(TRANSFORMERS)}, or {TIMM_PREFIX} and a name of timm's"


def list_backbones() -> tuple[str, ...]:
    """Names that `build_backbone` knows, besides "timm/" and a name of timm's, and "torchvision/" and a transformer's.

    Those are `TRANSFORMERS`.
    """
    return (*TORCHVISION, *LITE, TINY)


def is_timm(name: str) -> bool:
    """Whether a backbone's name belongs to a net of timm."""
    return name.startswith(TIMM_PREFIX) and len(name) > len(TIMM_PREFIX)


def is_transformer(name: str) -> bool:
    """Whether a backbone's name is that of a vision transformer of torchvision."""
    return name.startswith(TORCHVISION_PREFIX) and name.removeprefix(TORCHVISION_PREFIX) in TRANSFORMERS


def is_backbone(name: str) -> bool:
    """Whether `build_backbone` knows the name, as far as this is known without timm."""
    return name in list_backbones() or is_timm(name) or is_transformer(name)


def has_imagenet_weights(name: str) -> bool:
    """Whether `weights="imagenet"` exists for backbone `name`."""
    return name not in (TINY, f"{TORCHVISION_PREFIX}vit_h_14")
