"""ProtoPNet: a fixed number of prototypes for each class, and a linear layer over their similarities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.errors import require, require_number
from protokern.losses import Labels, LossCoefficients, ModelLoss, protopnet_loss
from protokern.models.base import ModelOutput, PrototypeModel
from protokern.models.feature_shape import in_channels_of
from protokern.models.settings import ModelConfig
from protokern.nn import PrototypeClassifier
from protokern.nn.prototype_layer import Activation


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtoPNetConfig(ModelConfig):
    """What a configuration says about a ProtoPNet. The defaults are the released program's.

    Attributes:
        prototypes_per_class: prototypes of each class.
        correct_class_weight: initial weight of a prototype for its own class.
        incorrect_class_weight: initial weight of a prototype for every other class.
    """

    name: Literal["protopnet"] = "protopnet"
    prototypes_per_class: int = 10
    correct_class_weight: float = 1.0
    incorrect_class_weight: float = -0.5

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        require_number(self, "prototypes_per_class", minimum=1)
        for name in ("correct_class_weight", "incorrect_class_weight"):
            require(math.isfinite(getattr(self, name)), name, "a finite number", getattr(self, name))


class ProtoPNet(PrototypeModel):
    """ProtoPNet on any convolutional backbone.

    Prototype p belongs to class p // prototypes_per_class. The channel count of the backbone is found by running it
    once on a black image (in eval mode, without gradients).

    Args:
        backbone: maps images (B, in_channels, Y, X) to (B, C, H, W).
        num_classes: K, >= 1.
        prototypes_per_class: >= 1.
        prototype_dim: D.
        prototype_size: (h, w) in patches.
        add_on_layers: "regular", "bottleneck" (both end in a sigmoid) or "linear"; see `make_add_on_layers`.
        activation: see `PrototypeLayer`.
        metric: "sqeuclidean" or "cosine".
        epsilon: of the log activation.
        correct_class_weight: first weight of the last layer from a prototype to its own class.
        incorrect_class_weight: first weight from a prototype to every other class.
        in_channels: channels of the images.
        image_size: side or (Y, X) of the image for that one run, in pixels; the model takes other sizes too.
        backend: see `protokern.min_distance`.
        salience: power of the salience by which the similarity of a patch is multiplied, see `SalientLayers`; 0: all
            patches count alike. Needs the cosine metric.

    Raises:
        ValueError: an argument is out of range, the backbone gives no feature maps, or its grid is smaller than
            `prototype_size`.

    Source: Chen, Li, Tao, Barnett, Su, Rudin 2019, "This Looks Like That", section 2.
    """

    Config = ProtoPNetConfig

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        prototypes_per_class: int = 10,
        prototype_dim: int = 128,
        prototype_size: tuple[int, int] = (1, 1),
        *,
        add_on_layers: str = "regular",
        activation: Activation = "log",
        metric: str = "sqeuclidean",
        epsilon: float = 1e-4,
        correct_class_weight: float = 1.0,
        incorrect_class_weight: float = -0.5,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 64,
        backend: str = "auto",
        salience: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("prototypes_per_class", prototypes_per_class)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1; got {value}. Give a positive number.")
        num_prototypes = num_classes * prototypes_per_class
        self._make_parts(
            backbone,
            num_prototypes,
            prototype_dim,
            prototype_size,
            add_on_layers=add_on_layers,
            activation=activation,
            metric=metric,
            epsilon=epsilon,
            in_channels=in_channels,
            image_size=image_size,
            backend=backend,
            salience=salience,
        )
        own_class = torch.arange(num_prototypes) // prototypes_per_class
        self.register_buffer("class_identity", F.one_hot(own_class, num_classes).float())
        self.last_layer = PrototypeClassifier(
            self.class_identity,
            correct_class_weight=correct_class_weight,
            incorrect_class_weight=incorrect_class_weight,
        )

    last_layer: PrototypeClassifier

    @classmethod
    def from_config(
        cls, config: ProtoPNetConfig, backbone: nn.Module, num_classes: int, image_size: int | tuple[int, int]
    ) -> Self:
        """The model of a configuration."""
        return cls(
            backbone,
            num_classes,
            config.prototypes_per_class,
            config.prototype_dim,
            config.prototype_size,
            add_on_layers=config.add_on_layers,
            activation=config.activation,
            metric=config.metric,
            epsilon=config.epsilon,
            correct_class_weight=config.correct_class_weight,
            incorrect_class_weight=config.incorrect_class_weight,
            in_channels=in_channels_of(backbone),
            image_size=image_size,
            salience=config.salience,
        )

    def head(self, features: Tensor) -> ModelOutput:
        """Logits, distances, activations and patches for feature maps (B, D, H, W)."""
        pool = self.prototype_layer(features)
        return ModelOutput(self.last_layer(pool.activation), pool.min_distance, pool.activation, pool.patch)

    def loss(
        self, output: ModelOutput, labels: Labels, coefficients: LossCoefficients, *, label_smoothing: float = 0.0
    ) -> ModelLoss:
        """See `protopnet_loss`."""
        return protopnet_loss(
            output,
            labels,
            self.class_identity,
            self.last_layer.weight,
            coefficients,
            max_distance=self.max_distance,
            label_smoothing=label_smoothing,
        )

    def _keep(self, kept: Tensor) -> None:
        super()._keep(kept)
        self.last_layer.keep_prototypes(kept)
        self.class_identity = self.class_identity[kept].clone()
