"""ProtoPNet: squared distances, and the similarity to the nearest patch.

Source: the class PPNet in github.com/cfchen-duke/ProtoPNet, model.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from protokern.kernels import distance_map, prototype_pool
from protokern.kernels.similarity import activate

from .base import Accelerated, as_program, as_rows
from .trial import Trial


class SquaredDistances(Accelerated):
    """What ProtoPNet and ProtoPool share."""

    prototype_vectors: Tensor
    prototype_activation_function: str | Callable[[Tensor], Tensor]
    epsilon: float
    last_layer: nn.Module
    conv_features: Callable[[Tensor], Tensor]
    distance_2_similarity: Callable[[Tensor], Tensor]

    def _l2_convolution(self, x: Tensor) -> Tensor:
        """Distances (B, P, H', W') of features (B, D, H, W); `prototype_distances` and `push_forward` call it."""
        distances = distance_map(x, as_rows(self.prototype_vectors), backend=self.protokern_backend)
        return as_program(distances, x)

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare the distances, and what `forward` makes of them."""
        vectors = trial.before.prototype_vectors
        features = draw_for(trial, vectors)
        trial.pretend("conv_features", features)
        distances = trial.ask("prototype_distances", trial.image)
        scale = largest_square(features, vectors)
        # Not with the copy's own `prototype_distances`, which a subclass may have replaced and `forward` does not call.
        trial.compare("prototype_distances", distances, trial.after._l2_convolution(features), scale)
        trial.compare("forward", trial.ask("forward", trial.image), trial.after.protokern_outputs(distances))
        return same_similarity(trial, distances)


class AcceleratedProtoPNet(SquaredDistances):
    """ProtoPNet's forward pass."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and smallest distances (B, P) of images (B, 3, Y, X)."""
        features = self.conv_features(x)
        chosen = self.prototype_activation_function
        pool = prototype_pool(
            features,
            as_rows(self.prototype_vectors),
            activation=chosen if chosen == self.protokern_similarity else self.distance_2_similarity,
            epsilon=self.epsilon,
            **self._protokern_options(),
        )
        return self.last_layer(as_program(pool.activation, features)), as_program(pool.min_distance, features)

    def protokern_outputs(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """What the program's `forward` returns for its own distances (B, P, H', W')."""
        nearest = distances.amin((2, 3))
        return self.last_layer(self.distance_2_similarity(nearest)), nearest


def draw_for(trial: Trial, vectors: Tensor, lowest: float = 0) -> Tensor:
    """Made-up features (2, D, H, W) for prototypes (P, D, h, w), on a grid of 4 x 3 patches."""
    depth, height, width = vectors.shape[1:]
    return trial.draw(2, depth, height + 3, width + 2, lowest=lowest)


def largest_square(features: Tensor, vectors: Tensor) -> float:
    """Upper bound of the squared norms of the patches and the prototypes, whose sum the programs take products from."""
    of_patch = features.square().sum(1).amax() * vectors.shape[2] * vectors.shape[3]
    return float(of_patch + vectors.square().sum((1, 2, 3)).amax())


def same_similarity(trial: Trial, distances: Tensor) -> str:
    """The name of the network's similarity, if ours of that name gives the same; otherwise ""."""
    network: Any = trial.before
    name = network.prototype_activation_function
    if name not in ("log", "linear"):
        return ""
    ours = activate(distances.to(torch.float32), name, network.epsilon).to(distances.dtype)
    theirs = network.distance_2_similarity(distances)
    return name if torch.allclose(theirs, ours, rtol=trial.rounding, atol=trial.rounding) else ""
