"""The prototypes as a layer around the fused op."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from protokern.kernels import (
    MinDistance,
    PrototypePool,
    distance_at,
    distance_map,
    min_distance,
    prototype_pool,
    topk_pool,
)
from protokern.kernels.checks import MOST_PATCHES, check_activation, check_epsilon
from protokern.kernels.geometry import compute_dtype
from protokern.kernels.metric import METRIC_TABLE, METRICS
from protokern.kernels.similarity import activate
from protokern.nn.mean_distance import mean_distance
from protokern.nn.patch_layer import Activation as Activation

# Features that differ by less than this share are equal up to the rounding of a float32 net.
_ROUNDING = 1e-5


class PrototypeLayer(nn.Module):
    """Learnt prototypes; for every image and prototype the nearest patch, its distance and the similarity to it.

    Args:
        num_prototypes: P.
        prototype_dim: D, channels of the features.
        prototype_size: (h, w) in patches of the feature map.
        activation: similarity of a distance: "log" is log((d + 1) / (d + epsilon)), "linear" is -d, "exp" is exp(-d),
            "exp_root" is exp(-sqrt(d + 1e-14)), "cosine" is 1 - d (with `metric="cosine"` only), or a decreasing
            function applied to distances. Of the names, `metric="dot"` takes "linear".
        metric: "sqeuclidean", "cosine" or "dot", see `protokern.min_distance`.
        epsilon: of the log activation, > 0.
        top_k: number of nearest patches over which the activation is averaged, 1 to 8. Distance and patch remain those
            of the nearest one.
        precision: how the search computes, see `protokern.min_distance`.
        backend: see `protokern.min_distance`.
        norm_as_weight: weight the patches by the length of their features; with `metric="cosine"` only. The weight of a
            patch, as in `protokern.min_distance`, is the Euclidean norm of its feature vector, at most 1; for patches
            of several cells the mean over the cells. So the similarity of a vector s x with |x| = 1 and s <= 1 is s
            times the cosine, and 0 for a zero vector. Every method does this; a given `patch_weight` is multiplied with
            it.
        bias: with `metric="dot"` only: a learnt number for every prototype is added to its score.

    Attributes:
        prototypes: parameter (P, D), or (P, D, h, w) for sizes other than (1, 1). Starts uniform in [0, 1) for
            "sqeuclidean" and "dot", standard normal for "cosine".
        bias: parameter (P,), starts at 0; None without one.

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
        norm_as_weight: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(num_prototypes, prototype_dim, prototype_size)
        if not 1 <= top_k <= MOST_PATCHES:
            raise ValueError(f"top_k: must be from 1 to {MOST_PATCHES}; got {top_k}. Give a number in this range.")
        if metric not in METRICS:
            raise ValueError(f"metric: must be one of {', '.join(METRICS)}; got {metric!r}. Check the spelling.")
        check_activation(activation, metric)
        if norm_as_weight and not METRIC_TABLE[metric].is_unit:
            raise ValueError(
                f"norm_as_weight: must be False unless metric is 'cosine'; got True with metric {metric!r}. "
                "Choose the other metric, or give weights as patch_weight."
            )
        if bias and not METRIC_TABLE[metric].is_product:
            raise ValueError(
                f"bias: must be False unless metric is 'dot'; got True with metric {metric!r}. Leave it out."
            )
        self.norm_as_weight = norm_as_weight
        self.activation = activation
        self.metric = metric
        self.epsilon = check_epsilon(epsilon)
        self.top_k = top_k
        self.precision = precision
        self.backend = backend
        size = () if tuple(prototype_size) == (1, 1) else tuple(prototype_size)
        self.prototypes = nn.Parameter(METRIC_TABLE[metric].start(num_prototypes, prototype_dim, *size))
        self.bias: nn.Parameter | None
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_prototypes)) if bias else None)

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

    @property
    def device(self) -> torch.device:
        """Where the layer is."""
        return self.prototypes.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the prototypes."""
        return self.prototypes.dtype

    @property
    def vectors(self) -> nn.Parameter:
        """`prototypes`, which a push writes."""
        return self.prototypes

    @property
    def shows_distance(self) -> bool:
        """Whether the distance means something to people; that of "dot" is a negative projection."""
        return not self.is_projected

    @property
    def is_projected(self) -> bool:
        """Whether distances are the negatives of projections on the prototypes, and may have either sign."""
        return METRIC_TABLE[self.metric].is_product

    def forward(self, features: Tensor, patch_weight: Tensor | None = None) -> PrototypePool:
        """Activation, smallest distance and nearest patch, each (B, P).

        Args:
            features: (B, D, H, W).
            patch_weight: (B, H', W') in [0, 1], how much every patch counts; see `protokern.min_distance`.
        """
        patch_weight = self._weights(features, patch_weight)
        if self.top_k > 1:
            nearest = topk_pool(
                features,
                self._chosen(None),
                self.top_k,
                activation=self.activation,
                epsilon=self.epsilon,
                metric=self.metric,
                precision=self.precision,
                backend=self.backend,
                patch_weight=patch_weight,
                bias=self.bias,
            )
            return PrototypePool(nearest.activation, nearest.distance[..., 0], nearest.patch[..., 0])
        return prototype_pool(
            features,
            self._chosen(None),
            activation=self.activation,
            epsilon=self.epsilon,
            metric=self.metric,
            precision=self.precision,
            backend=self.backend,
            patch_weight=patch_weight,
            bias=self.bias,
        )

    def min_distance(
        self,
        features: Tensor,
        prototype_index: Tensor | None = None,
        *,
        exact: bool = False,
        patch_weight: Tensor | None = None,
    ) -> MinDistance:
        """Smallest distance and nearest patch, each (B, P'), without the activation.

        Args:
            features: (B, D, H, W).
            prototype_index: (P',) int64, which prototypes; None: all.
            exact: search in full precision, whatever the precision of the layer and torch's setting for matrix
                products.
            patch_weight: (B, H', W'), as in `forward`.
        """
        return min_distance(
            features,
            self._chosen(prototype_index),
            metric=self.metric,
            precision="fp32" if exact else self.precision,
            backend=self.backend,
            patch_weight=self._weights(features, patch_weight),
            bias=self._chosen_bias(prototype_index),
        )

    def nearest_distances(
        self,
        features: Tensor,
        k: int,
        prototype_index: Tensor | None = None,
        *,
        patch_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Distances of the k nearest patches, ascending, and where they are, (B, P', k) each, in full precision.

        Args:
            features: (B, D, H, W).
            k: 1 to 8, at most the patches of the grid.
            prototype_index: (P',) int64, which prototypes; None: all.
            patch_weight: (B, H', W'), as in `forward`.
        """
        nearest = topk_pool(
            features,
            self._chosen(prototype_index),
            k,
            activation="linear",
            metric=self.metric,
            precision="fp32",
            backend=self.backend,
            patch_weight=self._weights(features, patch_weight),
            bias=self._chosen_bias(prototype_index),
        )
        return nearest.distance, nearest.patch

    def distance_map(
        self, features: Tensor, prototype_index: Tensor | None = None, *, patch_weight: Tensor | None = None
    ) -> Tensor:
        """Distances (B, P', H', W') at every patch.

        Args:
            features: (B, D, H, W).
            prototype_index: (P',) int64, which prototypes; None: all.
            patch_weight: (B, H', W'), as in `forward`.
        """
        return distance_map(
            features,
            self._chosen(None),
            prototype_index=prototype_index,
            metric=self.metric,
            backend=self.backend,
            patch_weight=self._weights(features, patch_weight),
            bias=self.bias,
        )

    def distance_at(
        self,
        features: Tensor,
        patch: Tensor,
        prototype_index: Tensor | None = None,
        *,
        patch_weight: Tensor | None = None,
    ) -> Tensor:
        """Distances at one given patch for each image and prototype, or at several, of the shape of `patch`.

        Args:
            features: (B, D, H, W).
            patch: (B, P') or (B, P', m) int64, flat indices row * W' + column.
            prototype_index: (P',) int64, which prototypes; None: all.
            patch_weight: (B, H', W'), as in `forward`.
        """
        return distance_at(
            features,
            self._chosen(prototype_index),
            patch,
            metric=self.metric,
            backend=self.backend,
            patch_weight=self._weights(features, patch_weight),
            bias=self._chosen_bias(prototype_index),
        )

    def mean_distance(self, features: Tensor) -> Tensor:
        """Mean over all patches of the distance to every prototype, (B, P), for features (B, D, H, W)."""
        return mean_distance(
            features,
            self._chosen(None),
            metric=self.metric,
            backend=self.backend,
            patch_weight=self._weights(features, None),
            bias=self.bias,
        )

    def activate(self, distance: Tensor) -> Tensor:
        """The layer's activation of distances of any shape, for instance of a distance map."""
        if callable(self.activation):
            return self.activation(distance)
        return activate(distance, self.activation, self.epsilon)

    def is_at_copy(self, distance: Tensor, prototype: int) -> bool:
        """Whether a patch at one of these distances is the prototype itself up to rounding, so that the gradient of
        the distance is 0 there; that of a product is not."""
        metric = METRIC_TABLE[self.metric]
        length = 1.0 if metric.is_unit else float(self.prototypes.detach()[prototype].double().square().sum())
        return not metric.is_product and bool((distance.detach() <= _ROUNDING**2 * length).any())

    def require_even_weights(self, what: str) -> None:
        """Refuse what treats all patches alike if the patches have weights.

        Raises:
            ValueError: `norm_as_weight` is set.
        """
        if self.norm_as_weight:
            raise ValueError(
                f"norm_as_weight: must be False for {what}, which counts all patches alike; got True. Leave it out."
            )

    def patch_weight(self, features: Tensor) -> Tensor | None:
        """How much every patch of features (B, D, H, W) counts, (B, H', W'); None: all count alike."""
        return self._weights(features, None)

    def _chosen(self, prototype_index: Tensor | None) -> Tensor:
        """The prototypes that an index chooses, (P', D) or (P', D, h, w)."""
        return self.prototypes if prototype_index is None else self.prototypes[prototype_index]

    def _chosen_bias(self, prototype_index: Tensor | None) -> Tensor | None:
        """The bias of the prototypes that an index chooses, (P',); None without one."""
        return self.bias if self.bias is None or prototype_index is None else self.bias[prototype_index]

    def _weights(self, features: Tensor, patch_weight: Tensor | None) -> Tensor | None:
        """The weights (B, H', W') of the patches, from those given and from their norms."""
        if not self.norm_as_weight:
            return patch_weight
        dtype = compute_dtype(features.dtype)
        # A zero vector is at distance 1, because it has no direction; a weight of 0 would take it out.
        norm = torch.linalg.vector_norm(features, dim=1, dtype=dtype).clamp(torch.finfo(dtype).tiny, 1)  # (B, H, W)
        if self.prototype_size != (1, 1):
            norm = avg_pool2d(norm, self.prototype_size, stride=1)  # (B, H', W')
        return norm if patch_weight is None else norm * patch_weight

    def keep_prototypes(self, index: Tensor) -> None:
        """Drop all prototypes but those in `index` (P',) int64; `prototypes` and `bias` become new parameters."""
        kept = self.prototypes.detach()[index].clone()
        self.prototypes = nn.Parameter(kept, requires_grad=self.prototypes.requires_grad)
        if self.bias is not None:
            self.bias = nn.Parameter(self.bias.detach()[index].clone(), requires_grad=self.bias.requires_grad)

    def set_prototypes(self, vectors: Tensor) -> None:
        """Replace all prototypes by `vectors` (P', D) or (P', D, h, w); the layer must have no bias."""
        assert self.bias is None
        self.prototypes = nn.Parameter(vectors.to(self.prototypes).clone(), requires_grad=self.prototypes.requires_grad)

    def extra_repr(self) -> str:
        """Shapes and settings, for `print(layer)`."""
        height, width = self.prototype_size
        text = (
            f"num_prototypes={self.num_prototypes}, prototype_dim={self.prototype_dim}, "
            f"prototype_size=({height}, {width}), activation={self.activation!r}, metric={self.metric!r}"
        )
        if self.norm_as_weight:
            text = f"{text}, norm_as_weight=True"
        if self.bias is not None:
            text = f"{text}, bias=True"
        return text if self.top_k == 1 else f"{text}, top_k={self.top_k}"


def _check_sizes(num_prototypes: int, prototype_dim: int, prototype_size: tuple[int, int]) -> None:
    for name, value in (("num_prototypes", num_prototypes), ("prototype_dim", prototype_dim)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1; got {value}. Give a positive number.")
    if len(prototype_size) != 2 or min(prototype_size) < 1:
        raise ValueError(f"prototype_size: must be two numbers of at least 1; got {prototype_size}. Give (h, w).")
