"""What a configuration says about every model. Each model adds its own settings beside its class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protokern.backbones import is_timm, list_backbones
from protokern.errors import require, require_number
from protokern.kernels.activations import ActivationName
from protokern.kernels.metrics import MetricName
from protokern.nn.add_on import AddOnName


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The net: backbone, prototypes and how they speak.

    Attributes:
        name: a key of `protokern.models.MODELS`.
        backbone: a name from `protokern.backbones.list_backbones()`, or "timm/" and a name of timm's.
        weights: of the backbone: "imagenet", "none" (random), a path of a weight file, or "auto": "imagenet" where
            there are such weights.
        backbone_stage: which of the backbone's stages gives the feature map: 0 for the first and finest one, -2 for the
            last but one, of twice the rows and columns; see `protokern.backbones.build_backbone`. None: the last one.
        prototype_dim: channels of the feature map and of a prototype.
        prototype_size: height and width of a prototype in patches.
        add_on_layers: the 1x1 convolutions between backbone and prototypes, see `protokern.nn.make_add_on_layers`.
        activation: similarity as a function of distance.
        metric: distance between a patch and a prototype.
        epsilon: of the "log" activation.
        salience: power with which the length of the backbone's vector at a patch, as a share of the largest one in the
            image, multiplies the patch's cosine similarity; 0: all patches count alike. Needs metric "cosine".
    """

    # A plain dict, so that using a model does not import pydantic.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str = ""
    backbone: str = "resnet34"
    weights: str = "auto"
    backbone_stage: int | None = None
    prototype_dim: int = 128
    prototype_size: tuple[int, int] = (1, 1)
    add_on_layers: AddOnName = "regular"
    activation: ActivationName = "log"
    metric: MetricName = "sqeuclidean"
    epsilon: float = 1e-4
    salience: float = 0.0

    def __post_init__(self) -> None:
        backbones = list_backbones()
        wanted = f"one of {', '.join(backbones)}, or timm/ and a name of timm's"
        require(self.backbone in backbones or is_timm(self.backbone), "backbone", wanted, self.backbone)
        require_number(self, "prototype_dim", minimum=1)
        require(min(self.prototype_size) >= 1, "prototype_size", "two numbers of at least 1", self.prototype_size)
        require_number(self, "epsilon", above=True)
        if self.activation == "cosine":
            require(self.metric == "cosine", "metric", '"cosine" when activation is "cosine"', self.metric)
        require_number(self, "salience")
        if self.salience:
            require(self.metric == "cosine", "metric", '"cosine" when salience is above 0', self.metric)
