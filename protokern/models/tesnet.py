"""TesNet: the prototypes of a class are a basis of its subspace, and patches are projected on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.losses import Labels, LossCoefficients, ModelLoss, class_bases, tesnet_loss
from protokern.models.base import ModelOutput, PrototypeModel
from protokern.models.settings import check_num_classes, settings_of
from protokern.models.tesnet_settings import TesNetConfig
from protokern.nn import PrototypeClassifier, UnitPrototypeLayer
from protokern.nn.prototype_layer import Activation
from protokern.nn.unit_prototypes import unit_vectors


@dataclass(frozen=True)
class TesNetOutput(ModelOutput):
    """The output of a TesNet for a batch; `activations` are projections, `min_distances` their negatives.

    Attributes:
        cosine_distances: (B, P) in [0, 2], 1 - cos at the patch where the cosine is largest, which may be another one
            than in `patches`. Only the losses read it.
    """

    cosine_distances: Tensor


torch.export.register_dataclass(TesNetOutput, serialized_type_name="protokern.models.tesnet.TesNetOutput")


class TesNet(PrototypeModel):
    """TesNet on any convolutional backbone.

    Prototype p belongs to class p // prototypes_per_class. Its activation is the largest projection p . x of a patch x,
    whose length counts; prototypes have length 1. The prototypes of a class should be orthogonal, and the subspaces
    that they span far apart. A push takes the patch of the largest projection, and its direction becomes the prototype.

    Args:
        backbone, num_classes, image_size, in_channels, backend, activation: see `PrototypeModel`.
        config: a `TesNetConfig`, or its fields by name.

    Raises:
        TypeError: `config` is not a TesNetConfig, or a setting is not one of its fields.
        ValueError: an argument is out of range, the backbone gives no feature maps, or its grid is smaller than
            `prototype_size`.

    Source: Wang, Liu, Wang, Jing 2021, "Interpretable Image Recognition by Constructing Transparent Embedding Space".
    """

    Config = TesNetConfig
    prototype_layer: UnitPrototypeLayer
    last_layer: PrototypeClassifier

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        config: TesNetConfig | None = None,
        *,
        image_size: int | tuple[int, int] = 64,
        in_channels: int = 3,
        backend: str = "auto",
        activation: Activation | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        config = settings_of(TesNetConfig, config, settings, activation)
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
            layer=UnitPrototypeLayer,
        )
        own_class = torch.arange(num_prototypes) // config.prototypes_per_class
        self.register_buffer("class_identity", F.one_hot(own_class, num_classes).float())
        self.last_layer = PrototypeClassifier(
            self.class_identity,
            correct_class_weight=config.correct_class_weight,
            incorrect_class_weight=config.incorrect_class_weight,
        )
        self.prototypes_per_class = config.prototypes_per_class
        self.orthonormality = config.orthonormality
        self.subspace_separation = config.subspace_separation

    @property
    def max_distance(self) -> float:
        """D * h * w: what the loss counts for an image whose class has no prototype; no cosine reaches it."""
        return float(self.prototype_layer.prototypes[0].numel())

    def head(self, features: Tensor) -> TesNetOutput:
        """Logits, projections, patches and cosines for feature maps (B, D, H, W)."""
        pool = self.prototype_layer(features)
        cosine = self.prototype_layer.cosine_distance(features)
        return TesNetOutput(
            self.last_layer(pool.activation), pool.min_distance, pool.activation, pool.patch, cosine_distances=cosine
        )

    def loss(
        self, output: ModelOutput, labels: Labels, coefficients: LossCoefficients, *, label_smoothing: float = 0.0
    ) -> ModelLoss:
        """See `tesnet_loss`."""
        assert isinstance(output, TesNetOutput)
        return tesnet_loss(
            output,
            labels,
            self.class_identity,
            self.last_layer.weight,
            class_bases(self.prototype_layer.prototypes, self.class_identity, self.prototypes_per_class),
            coefficients,
            orthonormality=self.orthonormality,
            subspace_separation=self.subspace_separation,
            max_distance=self.max_distance,
            label_smoothing=label_smoothing,
        )

    def after_step(
        self,
        output: ModelOutput,
        labels: Tensor,
        *,
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda total: total,
    ) -> None:
        """Give the prototypes unit length again."""
        self.prototype_layer.normalise()

    def from_patches(self, patches: Tensor) -> Tensor:
        """Their directions: vectors of unit length."""
        return unit_vectors(patches)

    def _keep(self, kept: Tensor) -> None:
        super()._keep(kept)
        self.last_layer.keep_prototypes(kept)
        self.class_identity = self.class_identity[kept].clone()
