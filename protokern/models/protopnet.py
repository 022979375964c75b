"""ProtoPNet: a fixed number of prototypes for each class, and a linear layer over their similarities."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.losses import Labels, LossCoefficients, ModelLoss, protopnet_loss
from protokern.models.base import ModelOutput, PrototypeModel
from protokern.models.protopnet_settings import ProtoPNetConfig
from protokern.models.settings import check_num_classes, settings_of
from protokern.nn import PrototypeClassifier, PrototypeLayer
from protokern.nn.prototype_layer import Activation


class ProtoPNet(PrototypeModel):
    """ProtoPNet on any convolutional backbone.

    Prototype p belongs to class p // prototypes_per_class.

    Args:
        backbone, num_classes, image_size, in_channels, backend, activation: see `PrototypeModel`.
        config: a `ProtoPNetConfig`, or its fields by name.

    Raises:
        TypeError: `config` is not a ProtoPNetConfig, or a setting is not one of its fields.
        ValueError: an argument is out of range, the backbone gives no feature maps, or its grid is smaller than
            `prototype_size`.

    Source: Chen, Li, Tao, Barnett, Su, Rudin 2019, "This Looks Like That", section 2.
    """

    Config = ProtoPNetConfig
    prototype_layer: PrototypeLayer
    last_layer: PrototypeClassifier

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        config: ProtoPNetConfig | None = None,
        *,
        image_size: int | tuple[int, int] = 64,
        in_channels: int = 3,
        backend: str = "auto",
        activation: Activation | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        config = settings_of(ProtoPNetConfig, config, settings, activation)
        check_num_classes(num_classes)
        num_prototypes = num_classes * config.prototypes_per_class
        self._make_parts(
            backbone,
            num_prototypes,
            config,
            image_size=image_size,
            in_channels=in_channels,
            backend=backend,
            activation=activation,
        )
        own_class = torch.arange(num_prototypes) // config.prototypes_per_class
        self.register_buffer("class_identity", F.one_hot(own_class, num_classes).float())
        self.last_layer = PrototypeClassifier(
            self.class_identity,
            correct_class_weight=config.correct_class_weight,
            incorrect_class_weight=config.incorrect_class_weight,
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

    def set_prototypes(self, vectors: Tensor, class_identity: Tensor, weight: Tensor) -> None:
        """See `PrototypeModel.set_prototypes`."""
        self.prototype_layer.set_prototypes(vectors)
        self.last_layer.set_weight(weight)
        self.class_identity = class_identity.to(self.class_identity).clone()

    def _keep(self, kept: Tensor) -> None:
        super()._keep(kept)
        self.last_layer.keep_prototypes(kept)
        self.class_identity = self.class_identity[kept].clone()
