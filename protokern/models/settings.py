"""What a configuration says about every model. Each model defines its further settings beside its class.

The one place where settings that are given by name become a configuration.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

from protokern.backbones.names import WANTED, is_backbone, list_backbones
from protokern.choices import MOST_PATCHES, PRECISIONS, ActivationName, AddOnName, MetricName, PrecisionName
from protokern.errors import ConfigError, require, require_number

# How the backbone is built; a model's constructor takes a finished backbone.
_OF_THE_BACKBONE = ("backbone", "weights", "backbone_stage", "salience_stage")
_NO_SETTINGS = ("name", *_OF_THE_BACKBONE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The net: backbone, prototypes and similarity.

    Attributes:
        name: the model, a key of `protokern.models.MODELS`; it decides which other keys there are.
        backbone: a name from `protokern.backbones.list_backbones()`, one of torchvision's with sizes or a stride of its
            own, such as "resnet-bottleneck-3-4-6-4" or "resnet50-stride8", "torchvision/" and a vision transformer's of
            torchvision, such as "torchvision/vit_b_16", or "timm/" and a name of timm's.
        weights: weights of the backbone: "imagenet", "none" (random), a path of a weight file, or "auto": "imagenet" if
            there are such weights.
        backbone_stage: stage of the backbone that gives the feature map: 0 for the first and finest one, -2 for the
            last but one, with twice the rows and columns; see `protokern.backbones.build_backbone`. Not set: the last
            one.
        prototype_dim: channels of the feature map and of a prototype.
        prototype_size: height and width of a prototype in patches.
        add_on_layers: the 1x1 convolutions between backbone and prototypes: "regular" and "bottleneck" are several,
            "single" is one, all with a sigmoid at the end; "single_no_bias" is the same without a bias; "linear" is one
            without sigmoid, for the cosine metric.
        activation: similarity as a function of distance; "cosine" needs metric "cosine", and metric "dot" needs
            "linear".
        metric: distance between a patch and a prototype; that of "dot" is the negative projection.
        epsilon: the small constant of the "log" activation, log((d + 1) / (d + epsilon)).
        salience: power of the patch's salience, which multiplies its cosine similarity. The salience is the length of
            the backbone's vector at the patch as a share of the largest one in the image. 0: all patches count alike.
            Needs metric "cosine".
        salience_stage: stage of the backbone, before the one that gives the feature map, whose lengths the salience
            also takes into account: the backbone's vectors are multiplied by them, see
            `protokern.backbones.build_backbone`. Needs `salience`. Not set, or "none": none.
        top_k: number of nearest patches whose mean similarity is used, 1 to 8. Boxes, heat maps, frames, measured
            reasons and the push concern the nearest one.
        search_precision: how coarse the search for the nearest patch may be, see `protokern.min_distance`: "fp32",
            "tf32", "bf16" or "auto".
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
    salience_stage: int | Literal["none"] | None = None
    top_k: int = 1
    search_precision: Literal["auto", PrecisionName] = "auto"

    def __post_init__(self) -> None:
        wanted = f"one of {', '.join(list_backbones())}, {WANTED}"
        require(is_backbone(self.backbone), "backbone", wanted, self.backbone)
        require_number(self, "prototype_dim", minimum=1)
        require(min(self.prototype_size) >= 1, "prototype_size", "two numbers of at least 1", self.prototype_size)
        require_number(self, "epsilon", above=True)
        if self.activation == "cosine":
            require(self.metric == "cosine", "metric", '"cosine" when activation is "cosine"', self.metric)
        if self.metric == "dot":
            require(self.activation == "linear", "activation", '"linear" when metric is "dot"', self.activation)
        require_number(self, "salience")
        if self.salience:
            require(self.metric == "cosine", "metric", '"cosine" when salience is above 0', self.metric)
        if self.salience_stage == "none":  # how a file or a command takes the stage of a recipe away
            object.__setattr__(self, "salience_stage", None)
        if self.salience_stage is not None and self.salience == 0:
            raise ConfigError(
                f"salience: must be above 0 when salience_stage is set; got {self.salience!r}. "
                'Or set model.salience_stage to "none".'
            )
        require(1 <= self.top_k <= MOST_PATCHES, "top_k", f"from 1 to {MOST_PATCHES}", self.top_k)
        is_known = self.search_precision in ("auto", *PRECISIONS)
        require(is_known, "search_precision", f"one of auto, {', '.join(PRECISIONS)}", self.search_precision)


Config = TypeVar("Config", bound=ModelConfig)


def check_num_classes(num_classes: int) -> None:
    """Raise a ValueError unless there is at least one class."""
    if num_classes < 1:
        raise ValueError(f"num_classes: must be at least 1; got {num_classes}. Give a positive number.")


def settings_of(kind: type[Config], config: Config | None, settings: Mapping[str, Any], activation: object) -> Config:
    """The settings given to a model's constructor: `config`, or one made from those given by name.

    Args:
        kind: the model's `Config`.
        config: an instance of it, or None.
        settings: fields of `kind` by name, other than those that say how the backbone is built.
        activation: a name, which is a setting, or a function or None, which the constructor handles.

    Raises:
        TypeError: `config` is not a `kind`, there are other settings too, or one of them is not a field.
        ConfigError: a value is out of range.
    """
    if activation is not None and not callable(activation):
        settings = {**settings, "activation": activation}
    elif callable(activation) and settings.get("metric") == "dot":
        settings = {"activation": "linear", **settings}  # the function takes its place
    if config is None:
        _check_names(kind, settings)
        return kind(**settings)
    if not isinstance(config, kind):
        # A caller who gives a number means the first field that only this model has.
        own = [field.name for field in fields(kind) if field.name not in ModelConfig.__dataclass_fields__]
        advice = f"Write {own[0]}={config}." if isinstance(config, int) and own else "Or give its fields by name."
        got = f"a {type(config).__name__}" if isinstance(config, ModelConfig) else repr(config)
        raise TypeError(f"config: must be a {kind.__name__}; got {got}. {advice}")
    if settings:
        raise TypeError(
            f"config: must be None where settings are given by name; got both, with {', '.join(settings)}. "
            "Set them in the config."
        )
    return config


def _check_names(kind: type[ModelConfig], settings: Mapping[str, Any]) -> None:
    """Raise a TypeError unless all names are fields of `kind` that a model's constructor takes."""
    allowed = [field.name for field in fields(kind) if field.name not in _NO_SETTINGS]
    for name in settings:
        if name in _OF_THE_BACKBONE:
            raise TypeError(
                f"{name}: must be given to build_backbone; got it for a model, which takes a finished backbone."
            )
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise TypeError(
                f"{name}: must be a field of {kind.__name__}; got an unknown name. {hint}Fields: {', '.join(allowed)}."
            )
