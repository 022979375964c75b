"""What every prototype net has in common: parts, output and how prototypes are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from protokern.nn import PrototypeClassifier, PrototypeLayer, evaluating


@dataclass(frozen=True)
class ModelOutput:
    """What a prototype net says about a batch.

    Attributes:
        logits: (B, K).
        min_distances: (B, P), distance of every prototype to its nearest patch.
        activations: (B, P), similarity at that patch; for ProtoPNet `logits = last_layer(activations)`.
        patches: (B, P) int64, flat index h * W' + w of that patch.
    """

    logits: Tensor
    min_distances: Tensor
    activations: Tensor
    patches: Tensor


# Lets torch.export trace, save and load a whole model.
torch.export.register_dataclass(ModelOutput, serialized_type_name="protokern.models.base.ModelOutput")


class PrototypeModel(nn.Module):
    """Backbone, add-on layers, prototypes, last layer.

    Attributes:
        backbone: from images to (B, C, H, W).
        add_on_layers: from there to features (B, D, H, W).
        prototype_layer: holds `prototypes` (P, D) or (P, D, h, w).
        class_identity: buffer (P, K), one-hot: the class of every prototype.
        last_layer: from activations (B, P) to logits (B, K).
    """

    backbone: nn.Module
    add_on_layers: nn.Sequential
    prototype_layer: PrototypeLayer
    class_identity: Tensor
    last_layer: PrototypeClassifier

    @property
    def num_prototypes(self) -> int:
        """P, as it is now."""
        return self.class_identity.shape[0]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.class_identity.shape[1]

    @property
    def prototype_class(self) -> Tensor:
        """Class of every prototype, (P,) int64."""
        return self.class_identity.argmax(dim=1)

    @property
    def max_distance(self) -> float | None:
        """Upper bound of all distances, as the losses use it; None when distances have none."""
        raise NotImplementedError(f"{type(self).__name__} must define max_distance")

    def features(self, images: Tensor) -> Tensor:
        """Feature maps (B, D, H, W) of images."""
        features: Tensor = self.add_on_layers(self.backbone(images))
        return features

    def head(self, features: Tensor) -> ModelOutput:
        """From feature maps (B, D, H, W) to the output."""
        raise NotImplementedError(f"{type(self).__name__} must define head")

    def forward(self, images: Tensor) -> ModelOutput:
        """The output for images (B, C, Y, X)."""
        return self.head(self.features(images))

    def keep_prototypes(self, index: Tensor | Sequence[int]) -> None:
        """Drop all prototypes but those in `index`, in place and in that order.

        The prototypes, the rows of `class_identity` and the columns of `last_layer` that stay are not changed, so every
        kept prototype contributes as before. Parameters are replaced: make optimizers anew.

        Args:
            index: (P',), P' >= 1, each of 0 .. P - 1 at most once.

        Raises:
            ValueError: index is empty, repeated or out of range.
        """
        kept = torch.as_tensor(index, dtype=torch.int64, device=self.class_identity.device)
        count = self.num_prototypes
        is_valid = kept.ndim == 1 and len(kept) > 0 and len(kept.unique()) == len(kept)
        if not is_valid or kept.min() < 0 or kept.max() >= count:
            raise ValueError(
                f"index: must be distinct prototypes of 0 .. {count - 1}, at least one; got {kept.tolist()}. "
                "Give the prototypes to keep."
            )
        self.prototype_layer.keep_prototypes(kept)
        self.last_layer.keep_prototypes(kept)
        self.class_identity = self.class_identity[kept].clone()


def find_feature_shape(backbone: nn.Module, in_channels: int, image_size: tuple[int, int]) -> tuple[int, int, int]:
    """Channels, rows and columns (C, H, W) of the backbone's feature maps, by running it on one black image.

    Runs in eval mode without gradients on the backbone's own device; nothing of the backbone is changed.

    Raises:
        ValueError: the backbone fails on such an image, or does not give (1, C, H, W).
    """
    tensors = (*backbone.parameters(), *backbone.buffers())
    state = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, in_channels, *image_size, device=state.device, dtype=state.dtype)
    shape = tuple(image.shape)
    with evaluating(backbone):
        try:
            features = backbone(image)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"backbone: must map images {shape} to feature maps; it failed: {error}. "
                "Check in_channels and image_size."
            ) from error
    if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[0] != 1:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"backbone: must map images {shape} to feature maps (1, C, H, W); got {got}. "
            "Leave out pooling and the classifier."
        )
    _, channels, height, width = features.shape
    return channels, height, width
