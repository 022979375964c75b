"""Prototypical relevance propagation: which pixels the similarity of a prototype to a patch came from, layer by layer.

zennit propagates; this file says with which rule each layer does, and where the relevance starts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from protokern.backbones.efficientnet_lite import InvertedResidual
from protokern.backbones.registry import Backbone
from protokern.errors import ProtokernError
from protokern.explain.packages import import_extra
from protokern.explain.similarity import Place, place_tensors, similarity_at
from protokern.models.base import PrototypeModel
from protokern.nn import ChannelLayer, PrototypeLayer, evaluating

_TINY = 1e-12
# Layers that zennit has a rule for, and containers whose sums it is told of.
_LAYERS = (
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.Sigmoid,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.Identity,
    nn.Dropout,
    nn.Sequential,
    InvertedResidual,
)


class NoRuleError(ProtokernError, ValueError):
    """The net has a layer through which relevance cannot be propagated."""


def relevance_maps(model: PrototypeModel, image: Tensor, places: Sequence[Place]) -> list[np.ndarray]:
    """How much of the similarity of prototypes to their patches came through each pixel, by layer-wise relevance.

    The relevance of a channel at the patch is, for the squared distance, the share of 1 / (x - p)^2; for the cosine and
    the dot product that of x p; for a prototype that is a channel all of it. It then goes back through the add-on
    layers and the backbone: batch norms are merged into convolutions, biases get nothing, convolutions follow the z+
    rule and the first one spreads evenly; a linear add-on layer before a cosine or a dot product follows the epsilon
    rule, as it is part of the product. The salience of patches is left out: the map explains what the patch is like,
    not how much it counts.

    Args:
        model: with a backbone of convolutions, batch norms, ReLUs, pooling and the sums of ResNet or EfficientNet-Lite;
            a copy of it is used.
        image: (C, Y, X) in [0, 1].
        places: prototypes and their patches.

    Returns:
        For each place (Y, X) float32, >= 0, the positive relevance. Positive and negative together are at most the
        size of the similarity; what reaches a unit that only its bias switched on is lost.

    Raises:
        NoRuleError: the net has other layers.
        ValueError: a patch is outside of the grid.
        MissingPackageError: zennit is not installed.

    Source: Gautam, Höhne, Hansen, Jenssen, Kampffmeyer 2023 (PRP), sections 3.2 and 3.3; Bach et al. 2015 (LRP);
        Montavon et al. 2017 (z+).
    """
    check_layers(model)
    composite = _composite(model)
    body, mean, std = _parts(model.backbone)
    with evaluating(model):
        net = nn.Sequential(copy.deepcopy(body), nn.Sequential(*map(copy.deepcopy, model.add_on_layers)))
        net.float().eval()
        features = model.features(image[None].to(model.device, model.dtype))
        similarity = similarity_at(model, features, *place_tensors(model, features, places))[0].float()  # (V,)
    pixels = ((image.to(model.device)[None] - mean) / std).float()
    maps = []
    with torch.inference_mode(False), torch.enable_grad():
        for place, size in zip(places, similarity.abs().tolist(), strict=True):
            relevance = _propagate(net, pixels, _at_features(model, place, size), composite)
            maps.append(relevance[0].sum(dim=0).clamp_min(0).cpu().numpy())
    return maps


def check_layers(model: PrototypeModel) -> None:
    """Raise a NoRuleError unless relevance can be propagated through every layer of a model."""
    known = (*_LAYERS, *_residual_blocks())
    for part, net in (("backbone", _parts(model.backbone)[0]), ("add_on_layers", model.add_on_layers)):
        for name, layer in net.named_modules():
            if not isinstance(layer, known):
                raise NoRuleError(
                    f'heat_map: "prp" must have a rule for every layer of the net; got {type(layer).__name__} at '
                    f'{".".join(filter(None, (part, name)))}. Use "smoothgrad", "occlusion" or "rise".'
                )


def _parts(backbone: nn.Module) -> tuple[nn.Module, Tensor | float, Tensor | float]:
    """A backbone's net for normalised images, and the mean and the deviation that normalise them."""
    return (backbone.body, backbone.mean, backbone.std) if isinstance(backbone, Backbone) else (backbone, 0.0, 1.0)


def _residual_blocks() -> tuple[type[nn.Module], ...]:
    from torchvision.models.resnet import BasicBlock, Bottleneck

    return BasicBlock, Bottleneck


def _at_features(model: PrototypeModel, place: Place, size: float) -> Any:
    """From features (1, D, H, W) to their relevance, which is `size` in all."""
    layer = model.prototype_layer

    def relevance(features: Tensor) -> Tensor:
        height, width = layer.prototype_size
        row, column = place.patch
        window = (0, slice(None), slice(row, row + height), slice(column, column + width))
        share = _shares(layer, features.detach()[window], place.prototype)
        total = share.sum()
        start = torch.zeros_like(features)
        if abs(float(total)) > _TINY:
            start[window] = share / total * size
        return start

    return relevance


def _shares(layer: Any, seen: Tensor, prototype: int) -> Tensor:
    """How the relevance is shared among the channels of a patch (D, h, w); in its shape, of any sum."""
    if isinstance(layer, ChannelLayer):
        shares = torch.zeros_like(seen)
        shares[int(layer.channels[prototype])] = 1
        return shares
    assert isinstance(layer, PrototypeLayer)
    vector = layer.prototypes.detach()[prototype].reshape(seen.shape).to(seen)
    if layer.metric == "sqeuclidean":
        return 1 / ((seen - vector).square() + _TINY)
    return seen * vector


def _propagate(net: nn.Module, pixels: Tensor, start: Any, composite: Any) -> Tensor:
    """Relevance of the normalised pixels (1, C, Y, X)."""
    attribution = import_extra("zennit.attribution", 'heat maps by "prp"')
    with attribution.Gradient(model=net, composite=composite) as gradient:
        _, relevance = gradient(pixels.clone().requires_grad_(), start)
    found: Tensor = relevance.detach()
    return found


def _composite(model: PrototypeModel) -> Any:
    """zennit's rules for the layers, see `relevance_maps`."""
    composites = import_extra("zennit.composites", 'heat maps by "prp"')
    rules = import_extra("zennit.rules", 'heat maps by "prp"')
    canonizers = import_extra("zennit.canonizers", 'heat maps by "prp"')
    torchvision = import_extra("zennit.torchvision", 'heat maps by "prp"')
    sums = import_extra("zennit.layer", 'heat maps by "prp"')

    def with_sum(name: str, module: nn.Module) -> dict[str, Any] | None:
        if not (isinstance(module, InvertedResidual) and module.is_residual):
            return None

        total = sums.Sum()

        def forward(x: Tensor) -> Tensor:
            added: Tensor = total(torch.stack([x, module.layers(x)], dim=-1))
            return added

        # An attribute of the block, so that the rule for sums is found there.
        return {"forward": forward, "canonizer_sum": total}

    steps = [torchvision.ResNetCanonizer(), canonizers.AttributeCanonizer(with_sum)]
    plain = composites.EpsilonPlusFlat(zero_params=["bias"], canonizers=steps)
    layer = model.prototype_layer
    if not isinstance(layer, PrototypeLayer) or layer.metric == "sqeuclidean":
        return plain
    names = [f"1.{k}" for k, one in enumerate(model.add_on_layers) if isinstance(one, nn.Conv2d)]
    product = composites.NameMapComposite([(names, rules.Epsilon(zero_params=["bias"]))])
    return composites.MixedComposite([product, plain])
