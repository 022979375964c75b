"""Networks of other programs as models of this package: what explains an image can then explain theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from protokern.models.base import ModelOutput, PrototypeModel
from protokern.nn import PrototypeLayer, evaluating

_TOLERANCE = 1e-3  # relative to the largest logit: two orders of additions in float32, and rounding at exact copies
_RELEASED = ("prototype_vectors", "conv_features", "distance_2_similarity", "last_layer")
_ADVICE = "Give wrap((backbone, prototype_layer, last_layer), ...), or put the net together from these three."


class WrappedModel(PrototypeModel):
    """A network with a `PrototypeLayer` and a linear layer after it, seen as a prototype model.

    It holds the parts themselves, so training the network goes on to change it; replaced parts, as after pruning, need
    another one. It is for answers and explanations: it has no loss and no settings.

    Args:
        backbone: from images as the network takes them to features (B, D, H, W).
        prototype_layer: the network's own.
        last_layer: linear, from the similarities (B, P) to logits (B, K).
        class_identity: (P, K), which prototypes belong to which class; None: each belongs to the class for which its
            weight is largest, if that is above 0.
        normalise: from images in [0, 1] to those that `backbone` takes; None: the same.
    """

    last_layer: nn.Linear

    def __init__(
        self,
        backbone: nn.Module,
        prototype_layer: PrototypeLayer,
        last_layer: nn.Linear,
        *,
        class_identity: Tensor | None = None,
        normalise: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone if normalise is None else _Normalised(backbone, normalise)
        self.add_on_layers = nn.Sequential()
        self.prototype_layer = prototype_layer
        self.last_layer = last_layer
        given = _classes_by_weight(last_layer.weight) if class_identity is None else class_identity
        self.register_buffer("class_identity", given.detach().to(last_layer.weight))
        self._has_bounded_features = False

    def head(self, features: Tensor) -> ModelOutput:
        """Logits, distances, activations and patches for feature maps (B, D, H, W)."""
        pool = self.prototype_layer(features)
        return ModelOutput(self.last_layer(pool.activation), pool.min_distance, pool.activation, pool.patch)

    @property
    def score_bias(self) -> Tensor | None:
        """(K,), the bias of the last layer; None without one."""
        return self.last_layer.bias


class _Normalised(nn.Module):
    """A backbone after a change of the images."""

    def __init__(self, backbone: nn.Module, normalise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone = backbone
        self._normalise = normalise

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D, H, W)."""
        features: Tensor = self.backbone(self._normalise(images))
        return features


class _Reached(Exception):
    """The pass of a network has come to its prototypes."""


class _UpToLayer(nn.Module):
    """What a network gives its prototype layer: the rest of its pass is left out."""

    def __init__(self, network: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._layer = [layer]  # in a list, so that it is no part of this module

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D, H, W)."""
        found: list[Tensor] = []

        def stop(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            found.append(inputs[0])
            raise _Reached

        handle = self._layer[0].register_forward_pre_hook(stop)
        try:
            self.network(images)
        except _Reached:
            return found[0]
        finally:
            handle.remove()
        raise ValueError(f"net: must use its {type(self._layer[0]).__name__} in every pass; this one did not.")


class _Features(nn.Module):
    """`conv_features` of a released network."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D, H, W)."""
        features: Tensor = self.network.conv_features(images)
        return features


class _Chain(nn.Module):
    """A backbone, a prototype layer and a last layer, one after the other."""

    def __init__(self, backbone: nn.Module, layer: nn.Module, last_layer: nn.Module) -> None:
        super().__init__()
        self.backbone, self.layer, self.last_layer = backbone, layer, last_layer

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.last_layer(self.layer(self.backbone(images)).activation)
        return logits


def wrap_network(
    net: nn.Module | Sequence[nn.Module],
    image_size: tuple[int, int],
    *,
    channels: int = 3,
    class_identity: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> WrappedModel:
    """A network of another program as a model, after its answers to two made-up images were compared.

    Args:
        net: a released ProtoPNet or one that uses its class, accelerated or not; any net with one `PrototypeLayer`
            whose similarities go into one linear layer; or its (backbone, prototype_layer, last_layer).
        image_size: (Y, X), pixels.
        channels: of the images.
        class_identity: see `WrappedModel`; a released net says it itself.
        mean, std: of the channels of images in [0, 1], which are subtracted and divided by before the net sees them;
            None: it takes images in [0, 1].

    Raises:
        ValueError: there are no such parts, or the parts give other answers than the net.
    """
    if not isinstance(net, nn.Module):
        net = _Chain(*_three(net))
    normalise = _normalisation(channels, mean, std)
    trial = _trial(net, channels, image_size)
    with evaluating(net):
        if all(hasattr(net, name) for name in _RELEASED):
            model = _wrap_released(net, class_identity, normalise)
        else:
            layer = _only_layer(net)
            last_layer = _find_last(net, layer, trial)
            model = WrappedModel(
                _UpToLayer(net, layer), layer, last_layer, class_identity=class_identity, normalise=normalise
            )
        model.eval()
        _check_classes(model)
        answers = _logits_of(net(trial))
        ours = model.head(_without_normalisation(model)(trial)).logits
    if answers.shape != ours.shape or not torch.allclose(answers, ours, atol=_TOLERANCE * float(ours.abs().amax())):
        raise ValueError(
            f"net: must answer by its prototype layer and its last layer alone; {type(net).__name__} gives other "
            f"logits. {_ADVICE}"
        )
    return model


def _three(parts: Sequence[nn.Module]) -> Sequence[nn.Module]:
    if len(parts) != 3 or not all(isinstance(one, nn.Module) for one in parts):
        raise ValueError(
            f"net: must be a module, or (backbone, prototype_layer, last_layer); got {len(parts)} parts. {_ADVICE}"
        )
    return parts


def _trial(net: nn.Module, channels: int, image_size: tuple[int, int]) -> Tensor:
    like = next((one for one in net.parameters() if one.is_floating_point()), torch.zeros(0))
    images = torch.rand(2, channels, *image_size, generator=torch.Generator().manual_seed(0))
    return images.to(like.device, like.dtype)


def _without_normalisation(model: WrappedModel) -> nn.Module:
    return model.backbone.backbone if isinstance(model.backbone, _Normalised) else model.backbone


def _wrap_released(
    net: Any, class_identity: Tensor | None, normalise: Callable[[Tensor], Tensor] | None
) -> WrappedModel:
    """A released ProtoPNet; its vectors are shared, in the shape of our layer."""
    if hasattr(net, "proto_presence"):
        raise ValueError(
            "net: must have prototypes of its classes; a released ProtoPool has slots that choose. Import its file "
            "instead, which makes the choices final."
        )
    vectors = net.prototype_vectors
    count, depth, *size = vectors.shape
    layer = PrototypeLayer(count, depth, (size[0], size[1]), activation=net.distance_2_similarity)
    layer.prototypes = nn.Parameter(vectors.detach().view(layer.prototypes.shape), requires_grad=False)
    own = getattr(net, "prototype_class_identity", None)
    if class_identity is None and isinstance(own, Tensor):
        class_identity = own
    last_layer = _linear(net.last_layer)
    return WrappedModel(_Features(net), layer, last_layer, class_identity=class_identity, normalise=normalise)


def _only_layer(net: nn.Module) -> PrototypeLayer:
    layers = [one for one in net.modules() if isinstance(one, PrototypeLayer)]
    if len(layers) != 1:
        raise ValueError(
            f"net: must have one PrototypeLayer, or be a released ProtoPNet; {type(net).__name__} has {len(layers)}. "
            f"{_ADVICE}"
        )
    return layers[0]


def _find_last(net: nn.Module, layer: PrototypeLayer, trial: Tensor) -> nn.Linear:
    """The linear layer whose input is what `layer` gave as similarities."""
    similarity: list[Tensor] = []
    found: list[nn.Linear] = []

    def note(_: nn.Module, __: Any, pool: Any) -> None:
        similarity.append(pool.activation)

    def look(linear: nn.Module, inputs: tuple[Any, ...]) -> None:
        is_it = bool(similarity) and inputs[0].shape == similarity[0].shape and torch.equal(inputs[0], similarity[0])
        if is_it and isinstance(linear, nn.Linear):
            found.append(linear)

    linears = [one for one in net.modules() if isinstance(one, nn.Linear)]
    with _hooked(layer.register_forward_hook(note), *(one.register_forward_pre_hook(look) for one in linears)):
        net(trial)
    if len(found) != 1:
        raise ValueError(
            f"net: must have one linear layer that takes the similarities of its prototypes; {type(net).__name__} has "
            f"{len(found)}. {_ADVICE}"
        )
    return found[0]


@contextmanager
def _hooked(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linear(layer: nn.Module) -> nn.Linear:
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"last_layer: must be linear; got {type(layer).__name__}. {_ADVICE}")
    return layer


def _logits_of(answer: Any) -> Tensor:
    """The logits (B, K) in what a network gives."""
    logits = getattr(answer, "logits", answer[0] if isinstance(answer, (tuple, list)) and answer else answer)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"net: must give logits, or a tuple that begins with them; got {type(answer).__name__}. {_ADVICE}"
        )
    return logits


def _classes_by_weight(weight: Tensor) -> Tensor:
    """(P, K) from weights (K, P): 1 for the class with the largest weight, if it is above 0."""
    identity = torch.zeros_like(weight.detach().T)
    best, place = weight.detach().max(dim=0)
    return identity.scatter(1, place[:, None], (best > 0).to(identity)[:, None])


def _check_classes(model: WrappedModel) -> None:
    weight, identity = model.last_layer.weight, model.class_identity
    if weight.shape[1] != model.num_prototypes or identity.shape != weight.T.shape:
        raise ValueError(
            f"class_identity: must be (P, K) = {tuple(weight.T.shape)}, as the last layer is, for "
            f"{model.num_prototypes} prototypes; got {tuple(identity.shape)}. Give one row for every prototype."
        )


def _normalisation(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Callable[[Tensor], Tensor] | None:
    if mean is None and std is None:
        return None
    means, stds = mean or (0.0,) * channels, std or (1.0,) * channels
    if not (len(means) == len(stds) == channels and all(one > 0 for one in stds)):
        raise ValueError(
            f"mean, std: must be {channels} numbers each, those of std above 0; got {mean} and {std}. Give one for "
            "every channel."
        )
    return partial(_normalise, tuple(map(float, means)), tuple(map(float, stds)))


def _normalise(mean: tuple[float, ...], std: tuple[float, ...], images: Tensor) -> Tensor:
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


class LogitsOnly(nn.Module):
    """A net that gives its logits and nothing else, as programs for attribution want it; in the mode of the net.

    Args:
        model: any net: a prototype model, an ensemble, a released one, or one that gives logits first in a tuple.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return _logits_of(self.model(images))
