"""ProtoPool: prototypes in slots, and the nearest similarity less the mean one.

Source: the class PrototypeChooser in github.com/gmum/ProtoPool, model.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.kernels import min_distance
from protokern.nn import mean_distance

from .base import as_program, as_rows
from .protopnet import SquaredDistances


class AcceleratedProtoPool(SquaredDistances):
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
        prototypes = as_rows(self.prototype_vectors)
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
