"""What the rest of the package asks of the layer that compares patches with prototypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from protokern.kernels import MinDistance, PrototypePool

Activation = str | Callable[[Tensor], Tensor]


class PatchLayer(Protocol):
    """A layer with P prototypes, each at some distance from every patch; a smaller distance is a better match.

    `PrototypeLayer` compares patches with learnt vectors, `ChannelLayer` reads channels. A `prototype_index` (P',)
    int64 chooses some prototypes; None: all. The grid of patches has H' rows and W' columns, and a patch has the flat
    index row * W' + column.

    Attributes:
        activation: the name of the similarity of a distance, or a function.
        norm_as_weight: whether patches count by the length of their features.
    """

    activation: Activation
    norm_as_weight: bool

    @property
    def num_prototypes(self) -> int:
        """P."""
        ...

    @property
    def prototype_dim(self) -> int:
        """D, channels of the features."""
        ...

    @property
    def prototype_size(self) -> tuple[int, int]:
        """(h, w), in patches."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the layer is."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of its floating-point numbers."""
        ...

    @property
    def vectors(self) -> nn.Parameter | None:
        """(P, D) or (P, D, h, w), what a push writes; None: the prototypes are not vectors."""
        ...

    @property
    def shows_distance(self) -> bool:
        """Whether the distance means something to people; False: they are told the similarity alone."""
        ...

    @property
    def is_projected(self) -> bool:
        """Whether distances may be negative: they are the negatives of projections on the prototypes."""
        ...

    def __call__(self, features: Tensor) -> PrototypePool:
        """Activation, smallest distance and nearest patch, each (B, P), of features (B, D, H, W)."""
        ...

    def min_distance(
        self, features: Tensor, prototype_index: Tensor | None = None, *, exact: bool = False
    ) -> MinDistance:
        """Smallest distance and nearest patch, each (B, P'); `exact`: in full precision."""
        ...

    def nearest_distances(
        self, features: Tensor, k: int, prototype_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distances of the k nearest patches, ascending, and where they are, (B, P', k) each."""
        ...

    def distance_map(self, features: Tensor, prototype_index: Tensor | None = None) -> Tensor:
        """Distances (B, P', H', W') at every patch."""
        ...

    def distance_at(self, features: Tensor, patch: Tensor, prototype_index: Tensor | None = None) -> Tensor:
        """Distances at given patches (B, P') or (B, P', m) int64, in their shape."""
        ...

    def activate(self, distance: Tensor) -> Tensor:
        """The similarity of distances of any shape."""
        ...

    def is_at_copy(self, distance: Tensor, prototype: int) -> bool:
        """Whether a patch at one of these distances is the prototype itself up to rounding, so that no gradient is
        left."""
        ...

    def keep_prototypes(self, index: Tensor) -> None:
        """Drop all prototypes but those in `index` (P',) int64."""
        ...
