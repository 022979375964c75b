"""What a run can be told about its model, its training and its pruning. `protokern.config` reads these from TOML.

The defaults are ProtoPNet's own: coefficients, learning rates, schedule and push epochs of the released program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from protokern.backbones import list_backbones
from protokern.errors import ConfigError
from protokern.models.registry import MODELS

LARGEST_RATE = 1e30  # a step of Adam with a larger one does not fit into float32


def require(condition: bool, name: str, wanted: str, got: Any) -> None:
    """Raise the one-line ConfigError for the field `name` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name}: must be {wanted}; got {got!r}.")


def require_number(settings: Any, *names: str, minimum: float = 0, above: bool = False) -> None:
    """Check that the named fields are finite numbers, at least (or, with `above`, greater than) `minimum`."""
    for name in names:
        value = getattr(settings, name)
        inside = math.isfinite(value) and (value > minimum if above else value >= minimum)
        require(inside, name, f"a finite number {'greater than' if above else 'of at least'} {minimum}", value)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The net: backbone, prototypes and how they speak.

    Attributes:
        name: a key of `protokern.models.registry.MODELS`.
        backbone: a name from `protokern.backbones.list_backbones()`.
        weights: of the backbone: "imagenet", "none" (random), a path of a weight file, or "auto": "imagenet" where
            there are such weights.
        prototypes_per_class: prototypes of each class.
        prototype_dim: channels of the feature map and of a prototype.
        prototype_size: height and width of a prototype in patches.
        add_on_layers: the 1x1 convolutions between backbone and prototypes.
        activation: similarity as a function of distance.
        metric: distance between a patch and a prototype.
        epsilon: of the "log" activation.
        correct_class_weight: initial weight of a prototype for its own class.
        incorrect_class_weight: initial weight of a prototype for every other class.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str = "protopnet"
    backbone: str = "resnet34"
    weights: str = "auto"
    prototypes_per_class: int = 10
    prototype_dim: int = 128
    prototype_size: tuple[int, int] = (1, 1)
    add_on_layers: Literal["regular", "bottleneck", "linear"] = "regular"
    activation: Literal["log", "linear", "exp", "cosine"] = "log"
    metric: Literal["sqeuclidean", "cosine"] = "sqeuclidean"
    epsilon: float = 1e-4
    correct_class_weight: float = 1.0
    incorrect_class_weight: float = -0.5

    def __post_init__(self) -> None:
        require(self.name in MODELS, "name", f"one of {', '.join(MODELS)}", self.name)
        backbones = list_backbones()
        require(self.backbone in backbones, "backbone", f"one of {', '.join(backbones)}", self.backbone)
        require_number(self, "prototypes_per_class", "prototype_dim", minimum=1)
        require(min(self.prototype_size) >= 1, "prototype_size", "two numbers of at least 1", self.prototype_size)
        require_number(self, "epsilon", above=True)
        for name in ("correct_class_weight", "incorrect_class_weight"):
            require(math.isfinite(getattr(self, name)), name, "a finite number", getattr(self, name))
        if self.activation == "cosine":
            require(self.metric == "cosine", "metric", '"cosine" when activation is "cosine"', self.metric)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How the net is trained.

    Attributes:
        seed: of Python, NumPy, torch and the loader's workers.
        batch_size: images in a step.
        warm_epochs: epochs with the backbone frozen.
        joint_epochs: epochs with everything but the last layer trained.
        push_start: first epoch, counted from 0 over warm and joint, that a push follows.
        push_every: epochs from one push to the next. A push always follows the last joint epoch.
        last_layer_epochs: passes over the cached activations after a push, and again after pruning.
        patience: joint epochs without a better validation accuracy before training moves on to its last push; 0: never.
        optimizer: "adam" (weight decay is added to the gradient, as in the original) or "adamw" (decoupled).
        backbone_lr, add_on_lr, prototype_lr: learning rates in the warm and joint stages.
        joint_last_layer_lr: of the last layer in the joint stage; 0: not trained there, as in the original.
        last_layer_lr: learning rate in the last-layer stage.
        weight_decay: of the backbone and the add-on layers; prototypes and last layer have none.
        schedule: of the joint learning rates: "step" divides by 1 / `step_gamma` every `step_size` epochs, "linear" and
            "cosine" fall to zero over the joint epochs, batch by batch.
        step_size, step_gamma: of the "step" schedule.
        cross_entropy, cluster, separation, l1: coefficients of the loss terms; that of the separation is negative.
        label_smoothing: of the cross entropy, in [0, 1).
        gradient_clip: largest norm of the whole gradient; 0: no clipping.
        precision: of the backbone and the add-on layers in training. "bf16" runs them under autocast; the prototype
            layer, evaluation, push and explanations are always float32.
        frozen_layers: submodules of the backbone that never learn, each with all that is below it, such as
            "body.stem" or "body.blocks.3". Early layers of a pretrained net change little and cost most of the
            backward pass.
        batch_norm: "train": batch norms of the layers that learn use and update the statistics of the batch, as in the
            original; "frozen": those of the backbone keep the statistics it came with.
        channels_last: hold images and convolution weights channels last, which is faster on most devices.
        feature_cache_mb: memory for the features of the frozen backbone (MiB) around a push. A data set whose features
            do not fit goes through the backbone once more for every pass.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    seed: int = 0
    batch_size: int = 80
    warm_epochs: int = 5
    joint_epochs: int = 26
    push_start: int = 10
    push_every: int = 10
    last_layer_epochs: int = 20
    patience: int = 10
    optimizer: Literal["adam", "adamw"] = "adam"
    backbone_lr: float = 1e-4
    add_on_lr: float = 3e-3
    prototype_lr: float = 3e-3
    joint_last_layer_lr: float = 0.0
    last_layer_lr: float = 1e-4
    weight_decay: float = 1e-3
    schedule: Literal["constant", "step", "linear", "cosine"] = "step"
    step_size: int = 5
    step_gamma: float = 0.1
    cross_entropy: float = 1.0
    cluster: float = 0.8
    separation: float = -0.08
    l1: float = 1e-4
    label_smoothing: float = 0.0
    gradient_clip: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    frozen_layers: tuple[str, ...] = ()
    batch_norm: Literal["train", "frozen"] = "train"
    channels_last: bool = True
    feature_cache_mb: int = 2048

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", "from 0 to 4294967295", self.seed)
        require_number(self, "batch_size", "push_every", "step_size", minimum=1)
        require_number(self, "warm_epochs", "joint_epochs", "push_start", "last_layer_epochs", "patience")
        require_number(self, "feature_cache_mb")
        require(self.warm_epochs + self.joint_epochs >= 1, "joint_epochs", "at least 1 when warm_epochs is 0", 0)
        rates = ("backbone_lr", "add_on_lr", "prototype_lr", "joint_last_layer_lr", "last_layer_lr", "weight_decay")
        require_number(self, *rates)
        for name in rates:
            require(getattr(self, name) <= LARGEST_RATE, name, f"at most {LARGEST_RATE:g}", getattr(self, name))
        require_number(self, "gradient_clip", "cross_entropy", "cluster", "l1")
        require(0 < self.step_gamma <= 1, "step_gamma", "greater than 0 and at most 1", self.step_gamma)
        require(-math.inf < self.separation <= 0, "separation", "0 or negative", self.separation)
        require(
            0 <= self.label_smoothing < 1, "label_smoothing", "from 0 up to, not including, 1", self.label_smoothing
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneConfig:
    """Whether and how prototypes are removed at the end.

    Attributes:
        enabled: prune after the last push.
        k: nearest training images that are looked at for each prototype.
        threshold: a prototype stays when at least this many of the k are of its class.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    enabled: bool = False
    k: int = 6
    threshold: int = 3

    def __post_init__(self) -> None:
        require_number(self, "k", minimum=1)
        require(0 <= self.threshold <= self.k, "threshold", f"from 0 to k ({self.k})", self.threshold)
