"""The prototypes as a layer around the fused op."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from protokern.kernels import MinDistance, PrototypePool, distance_map, min_distance, prototype_pool, topk_pool
from protokern.kernels.activations import activate
from protokern.kernels.checks import MOST_PATCHES, check_activation, check_epsilon
from protokern.kernels.metrics import METRICS

Activation = str | Callable[[Tensor], Tensor]


class PrototypeLayer(nn.Module):
    """Learnt prototypes; for every image and prototype the nearest patch, its distance and the similarity to it.

    Args:
        num_prototypes: P.
        prototype_dim: D, channels of the features.
        prototype_size: (h, w) in patches of the feature map.
        activation: similarity of a distance: "log" is log((d + 1) / (d + epsilon)), "linear" is -d, "exp" is exp(-d),
            "cosine" is 1 - d (with `metric="cosine"` only), or a decreasing function applied to distances.
        metric: "sqeuclidean" or "cosine".
        epsilon: of the log activation, > 0.
        top_k: from how many patches the activation is taken, 1 to 8: their mean, for the nearest ones. Distance and
            patch stay those of the nearest one.
        precision: how the search computes, see `protokern.min_distance`.
        backend: see `protokern.min_distance`.

    Attributes:
        prototypes: parameter (P, D), or (P, D, h, w) for sizes other than (1, 1). Starts uniform in [0, 1) for
            "sqeuclidean", standard normal for "cosine".

    Raises:
        ValueError: an argument is out of range or unknown.

    Source: Chen et al. 2019 (ProtoPNet), section 2.1.
    """

    def __init__(
        self,
        num_prototypes: int,
        prototype_dim: int,
        prototype_size: tuple[int, int] = (1, 1),
        *,
        activation: Activation = "log",
        metric: str = "sqeuclidean",
        epsilon: float = 1e-4,
        top_k: int = 1,
        precision: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        _check_sizes(num_prototypes, prototype_dim, prototype_size)
        if not 1 <= top_k <= MOST_PATCHES:
            raise ValueError(f"top_k: must be from 1 to {MOST_PATCHES}; got {top_k}. Give a number in this range.")
        if metric not in METRICS:
            raise ValueError(f"metric: must be one of {', '.join(METRICS)}; got {metric!r}. Check the spelling.")
        check_activation(activation, metric)
        self.activation = activation
        self.metric = metric
        self.epsilon = check_epsilon(epsilon)
        self.top_k = top_k
        self.precision = precision
        self.backend = backend
        size = () if tuple(prototype_size) == (1, 1) else tuple(prototype_size)
        draw = torch.rand if metric == "sqeuclidean" else torch.randn
        self.prototypes = nn.Parameter(draw(num_prototypes, prototype_dim, *size))

    @property
    def num_prototypes(self) -> int:
        """P."""
        return self.prototypes.shape[0]

    @property
    def prototype_dim(self) -> int:
        """D."""
        return self.prototypes.shape[1]

    @property
    def prototype_size(self) -> tuple[int, int]:
        """(h, w), in patches."""
        height, width = self.prototypes.shape[2:] or (1, 1)
        return height, width

    def forward(self, features: Tensor) -> PrototypePool:
        """Activation, smallest distance and nearest patch, each (B, P), for features (B, D, H, W)."""
        if self.top_k > 1:
            nearest = topk_pool(
                features,
                self.prototypes,
                self.top_k,
                activation=self.activation,
                epsilon=self.epsilon,
                metric=self.metric,
                precision=self.precision,
                backend=self.backend,
            )
            return PrototypePool(nearest.activation, nearest.distance[..., 0], nearest.patch[..., 0])
        return prototype_pool(
            features,
            self.prototypes,
            activation=self.activation,
            epsilon=self.epsilon,
            metric=self.metric,
            precision=self.precision,
            backend=self.backend,
        )

    def min_distance(
        self, features: Tensor, prototype_index: Tensor | None = None, *, exact: bool = False
    ) -> MinDistance:
        """Smallest distance and nearest patch, each (B, P'), without the activation.

        Args:
            features: (B, D, H, W).
            prototype_index: (P',) int64, which prototypes; None: all.
            exact: search in full precision, whatever the layer and torch's setting for products say.
        """
        return min_distance(
            features,
            self.prototypes if prototype_index is None else self.prototypes[prototype_index],
            metric=self.metric,
            precision="fp32" if exact else self.precision,
            backend=self.backend,
        )

    def nearest_distances(
        self, features: Tensor, k: int, prototype_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distances of the k nearest patches, ascending, and where they are, (B, P', k) each, in full precision.

        Args:
            features: (B, D, H, W).
            k: 1 to 8, at most the patches of the grid.
            prototype_index: (P',) int64, which prototypes; None: all.
        """
        nearest = topk_pool(
            features,
            self.prototypes if prototype_index is None else self.prototypes[prototype_index],
            k,
            activation="linear",
            metric=self.metric,
            precision="fp32",
            backend=self.backend,
        )
        return nearest.distance, nearest.patch

    def distance_map(self, features: Tensor, prototype_index: Tensor | None = None) -> Tensor:
        """Distances (B, P', H', W') at every patch, of all prototypes or those in `prototype_index` (P',) int64."""
        return distance_map(
            features, self.prototypes, prototype_index=prototype_index, metric=self.metric, backend=self.backend
        )

    def activate(self, distance: Tensor) -> Tensor:
        """The layer's activation of distances of any shape, for instance of a distance map."""
        if callable(self.activation):
            return self.activation(distance)
        return activate(distance, self.activation, self.epsilon)

    def keep_prototypes(self, index: Tensor) -> None:
        """Drop all prototypes but those in `index` (P',) int64; `prototypes` becomes a new parameter."""
        kept = self.prototypes.detach()[index].clone()
        self.prototypes = nn.Parameter(kept, requires_grad=self.prototypes.requires_grad)

    def extra_repr(self) -> str:
        """Shapes and settings, for `print(layer)`."""
        height, width = self.prototype_size
        text = (
            f"num_prototypes={self.num_prototypes}, prototype_dim={self.prototype_dim}, "
            f"prototype_size=({height}, {width}), activation={self.activation!r}, metric={self.metric!r}"
        )
        return text if self.top_k == 1 else f"{text}, top_k={self.top_k}"


def _check_sizes(num_prototypes: int, prototype_dim: int, prototype_size: tuple[int, int]) -> None:
    for name, value in (("num_prototypes", num_prototypes), ("prototype_dim", prototype_dim)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1; got {value}. Give a positive number.")
    if len(prototype_size) != 2 or min(prototype_size) < 1:
        raise ValueError(f"prototype_size: must be two numbers of at least 1; got {prototype_size}. Give (h, w).")
