"""The methods that replace those of the released ProtoPNet and ProtoPool programs, as classes to mix into theirs.

accelerated_descendants.py has those of TesNet and ProtoTree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.kernels import distance_map, min_distance, prototype_pool
from protokern.nn import mean_distance


class Accelerated(nn.Module):
    """What the programs share. All tensors are read from the network at each call, so nothing can become stale.

    Attributes:
        has_similarity: whether the program makes similarities of the smallest distances.
        map_method: the name of the program's method that gives all distances.
        vectors_at: the name of the prototypes.
        protokern_similarity: name of the similarity that may be computed inside the op; "" for none.
        protokern_precision, protokern_backend: options of the ops.
    """

    has_similarity: ClassVar[bool] = True
    map_method: ClassVar[str] = "prototype_distances"
    vectors_at: ClassVar[str] = "prototype_vectors"

    protokern_similarity: str
    protokern_precision: str | None
    protokern_backend: str
    prototype_vectors: Tensor
    prototype_activation_function: str | Callable[[Tensor], Tensor]
    epsilon: float
    last_layer: nn.Module
    conv_features: Callable[[Tensor], Tensor]
    distance_2_similarity: Callable[[Tensor], Tensor]

    def _l2_convolution(self, x: Tensor) -> Tensor:
        """Distances (B, P, H', W') of features (B, D, H, W); `prototype_distances` and `push_forward` call it."""
        distances = distance_map(x, self._protokern_prototypes(), backend=self.protokern_backend)
        return as_program(distances, x)

    def _protokern_prototypes(self) -> Tensor:
        vectors = self.prototype_vectors
        return vectors.flatten(1) if vectors.shape[2:] == (1, 1) else vectors

    def _protokern_options(self) -> dict[str, Any]:
        return {"precision": self.protokern_precision, "backend": self.protokern_backend}

    def protokern_outputs(self, *maps: Any) -> tuple[Tensor, ...]:
        """What the program's `forward` returns for what its `map_method` returns."""
        raise NotImplementedError(f"{type(self).__name__} must define protokern_outputs")

    @staticmethod
    def protokern_feed(network: Any, features: Tensor) -> None:
        """Let a copy of a network take `features` in place of those of its own layers."""
        network.conv_features = lambda _: features

    @staticmethod
    def protokern_maps(result: Any) -> tuple[Any, ...]:
        """The distances among what `map_method` returns."""
        return result if isinstance(result, tuple) else (result,)

    @staticmethod
    def protokern_tensors(result: Any) -> Any:
        """What of the results of `forward` is compared."""
        return result

    @staticmethod
    def protokern_scale(norms: float) -> float:
        """How large distances are, for features and prototypes of these squared norms."""
        return norms

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copies and pickles name the program's own class, since the class of this object is made at run time."""
        state = super().__reduce_ex__(max(protocol, 2))[2:]
        mixin, program = type(self).__bases__
        return (make_empty, (program, mixin), *state)


class AcceleratedProtoPNet(Accelerated):
    """ProtoPNet's forward pass."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and smallest distances (B, P) of images (B, 3, Y, X)."""
        features = self.conv_features(x)
        chosen = self.prototype_activation_function
        pool = prototype_pool(
            features,
            self._protokern_prototypes(),
            activation=chosen if chosen == self.protokern_similarity else self.distance_2_similarity,
            epsilon=self.epsilon,
            **self._protokern_options(),
        )
        return self.last_layer(as_program(pool.activation, features)), as_program(pool.min_distance, features)

    def protokern_outputs(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """What the program's `forward` returns for its own distances (B, P, H', W')."""
        nearest = distances.amin((2, 3))
        return self.last_layer(self.distance_2_similarity(nearest)), nearest


class AcceleratedProtoPool(Accelerated):
    """ProtoPool's forward pass."""

    proto_presence: Tensor
    use_last_layer: bool
    _mix_l2_convolution: Callable[[Tensor, Tensor], Tensor]

    def forward(self, x: Tensor, gumbel_scale: float = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K) and smallest distances (B, P) of images (B, 3, Y, X), and the shares (K, P, S) in the slots."""
        # Drawn before the features are computed, as the program does, so that a seed gives the same noise.
        if gumbel_scale == 0:
            presence = torch.softmax(self.proto_presence, dim=1)
        else:
            presence = F.gumbel_softmax(self.proto_presence * gumbel_scale, tau=0.5, dim=1)
        features = self.conv_features(x)
        prototypes = self._protokern_prototypes()
        nearest = as_program(min_distance(features, prototypes, **self._protokern_options()).value, features)
        average = as_program(mean_distance(features, prototypes, backend=self.protokern_backend), features)
        return self._protokern_logits(nearest, average, presence), nearest, presence

    def protokern_outputs(self, distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the program's `forward` returns for its own distances (B, P, H', W') without Gumbel noise."""
        nearest, presence = distances.amin((2, 3)), torch.softmax(self.proto_presence, dim=1)
        return self._protokern_logits(nearest, distances.mean((2, 3)), presence), nearest, presence

    def _protokern_logits(self, nearest: Tensor, average: Tensor, presence: Tensor) -> Tensor:
        at_nearest = self.distance_2_similarity(self._mix_l2_convolution(nearest, presence))
        focal = at_nearest - self.distance_2_similarity(self._mix_l2_convolution(average, presence))
        return self.last_layer(focal.flatten(1)) if self.use_last_layer else focal.sum(-1)


def as_program(result: Tensor, features: Tensor) -> Tensor:
    """`result` in the dtype of the features, as in the program, but not in half precision under autocast."""
    return result if torch.is_autocast_enabled(features.device.type) else result.to(features.dtype)


# One class per pair, so that two accelerated networks of one program are of one type.
_MADE: dict[tuple[type[nn.Module], type[Accelerated]], type[nn.Module]] = {}


def accelerated_class(program: type[nn.Module], mixin: type[Accelerated]) -> type[nn.Module]:
    """The class `program` with its methods replaced by those of `mixin`."""
    if (program, mixin) not in _MADE:
        name = f"Accelerated{program.__name__}"
        _MADE[program, mixin] = type(name, (mixin, program), {"__module__": program.__module__})
    return _MADE[program, mixin]


def make_empty(program: type[nn.Module], mixin: type[Accelerated]) -> nn.Module:
    """A network without state, for copies and pickles to fill."""
    made = accelerated_class(program, mixin)
    return made.__new__(made)
