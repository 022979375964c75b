"""ProtoPNet: a fixed number of prototypes for each class, and a linear layer over their similarities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.models.base import ModelOutput, PrototypeModel, find_feature_shape
from protokern.nn import PrototypeClassifier, PrototypeLayer, make_add_on_layers
from protokern.nn.prototype_layer import Activation


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

    Raises:
        ValueError: an argument is out of range, the backbone gives no feature maps, or its grid is smaller than
            `prototype_size`.

    Source: Chen, Li, Tao, Barnett, Su, Rudin 2019, "This Looks Like That", section 2.
    """

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
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("prototypes_per_class", prototypes_per_class)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1; got {value}. Give a positive number.")
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        channels, height, width = find_feature_shape(backbone, in_channels, size)
        num_prototypes = num_classes * prototypes_per_class
        self.backbone = backbone
        self.add_on_layers = make_add_on_layers(channels, prototype_dim, add_on_layers)
        self.prototype_layer = PrototypeLayer(
            num_prototypes,
            prototype_dim,
            prototype_size,
            activation=activation,
            metric=metric,
            epsilon=epsilon,
            backend=backend,
        )
        if height < prototype_size[0] or width < prototype_size[1]:
            raise ValueError(
                f"prototype_size: must fit the feature grid {(height, width)} of {size} pixels; got {prototype_size}. "
                "Take smaller prototypes, or give the image_size that the model is for."
            )
        own_class = torch.arange(num_prototypes) // prototypes_per_class
        self.register_buffer("class_identity", F.one_hot(own_class, num_classes).float())
        self.last_layer = PrototypeClassifier(
            self.class_identity,
            correct_class_weight=correct_class_weight,
            incorrect_class_weight=incorrect_class_weight,
        )
        self._has_bounded_features = add_on_layers != "linear"

    @property
    def max_distance(self) -> float | None:
        """2 for cosine; D * h * w for squared distances between features and prototypes in [0, 1]; else None."""
        if self.prototype_layer.metric == "cosine":
            return 2.0
        return float(self.prototype_layer.prototypes[0].numel()) if self._has_bounded_features else None

    def head(self, features: Tensor) -> ModelOutput:
        """Logits, distances, activations and patches for feature maps (B, D, H, W)."""
        pool = self.prototype_layer(features)
        return ModelOutput(self.last_layer(pool.activation), pool.min_distance, pool.activation, pool.patch)
