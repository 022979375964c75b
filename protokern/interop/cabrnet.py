"""A similarity and three classifiers that CaBRNet 1.2 selects by name from its YAML files.

docs/interop.md has the YAML. Importing this module needs the package `cabrnet`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.kernels import PrototypePool, distance_map, prototype_pool
from protokern.kernels.backends import check_names
from protokern.kernels.checks import check_activation, check_epsilon
from protokern.kernels.metric import METRICS
from protokern.kernels.similarity import activate
from protokern.nn import mean_distance

try:
    from cabrnet.archs.protopnet.decision import ProtoPNetClassifier
    from cabrnet.archs.protopool.decision import ProtoPoolClassifier
    from cabrnet.archs.prototree.decision import ProtoTreeClassifier, SamplingStrategy
    from cabrnet.core.utils.similarities import SimilarityLayer
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] != "cabrnet":
        raise ImportError(
            f"protokern.interop.cabrnet: needs CaBRNet 1.2, which is installed but fails to import ({error}). Install "
            "what it asks for, or CaBRNet again: pip install --force-reinstall 'cabrnet==1.2.*'."
        ) from error
    raise ImportError(
        f"protokern.interop.cabrnet: needs CaBRNet 1.2; {error}. Run pip install 'protokern[cabrnet]' (Python 3.12 or "
        "older)."
    ) from error


class FusedSimilarity(SimilarityLayer):
    """Distances of every patch, like CaBRNet's other similarity layers, and the nearest patch without them.

    Args:
        activation: similarity of a distance, "log", "linear", "exp", "cosine" or "exp_root"; see
            `protokern.prototype_pool`.
        metric: "sqeuclidean", "cosine" or "dot".
        stability_factor: CaBRNet's name for the epsilon of "log".
        precision: how the nearest patch is searched; see `protokern.min_distance`.
        backend: see `protokern.min_distance`.
        num_prototypes: given by CaBRNet; not needed.
        num_features: given by CaBRNet; not needed.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    def __init__(
        self,
        activation: str = "log",
        metric: str = "sqeuclidean",
        stability_factor: float = 1e-4,
        precision: str | None = None,
        backend: str = "auto",
        num_prototypes: int = 0,
        num_features: int = 0,
    ) -> None:
        super().__init__()
        if metric not in METRICS:
            raise ValueError(f"metric: must be one of {', '.join(METRICS)}; got {metric!r}.")
        check_activation(activation, metric)
        check_names(backend, precision)
        self.activation = activation
        self.metric = metric
        self.stability_factor = check_epsilon(stability_factor)
        self.precision = precision
        self.backend = backend

    def distances(self, features: Tensor, prototypes: Tensor, **kwargs: Any) -> Tensor:
        """Distances (N, P, H, W) of features (N, D, H, W) and prototypes (P, D, 1, 1)."""
        return distance_map(features, prototypes.flatten(1), metric=self.metric, backend=self.backend)

    def distances_to_similarities(self, distances: Tensor, **kwargs: Any) -> Tensor:
        """Similarities of distances of any shape."""
        return activate(distances, self.activation, self.stability_factor)

    def nearest(self, features: Tensor, prototypes: Tensor) -> PrototypePool:
        """Similarity, smallest distance and nearest patch, each (N, P), without the distances of the other patches."""
        return prototype_pool(
            features,
            prototypes.flatten(1),
            activation=self.activation,
            epsilon=self.stability_factor,
            metric=self.metric,
            precision=self.precision,
            backend=self.backend,
        )


class FusedProtoPNetClassifier(ProtoPNetClassifier):
    """CaBRNet's ProtoPNet classifier, whose forward pass never holds the distances of all patches.

    Same arguments, parameters, state dict and results as `ProtoPNetClassifier`.

    Raises:
        ValueError: the similarity is not `FusedSimilarity`, or `compatibility_mode` is on.
    """

    similarity_layer: FusedSimilarity

    def build_similarity(self, config: dict[str, Any]) -> None:
        """Make the similarity of the YAML; CaBRNet calls this while it makes the classifier."""
        super().build_similarity(config)
        _check_classifier(self)

    def forward(self, features: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and smallest distances (N, P) of features (N, D, H, W)."""
        pool = self.similarity_layer.nearest(features, self.prototypes)
        return self.last_layer(pool.activation), pool.min_distance


class FusedProtoPoolClassifier(ProtoPoolClassifier):
    """CaBRNet's ProtoPool classifier, whose forward pass never holds the distances of all patches.

    Same arguments, parameters, state dict and results as `ProtoPoolClassifier`.

    Raises:
        ValueError: the similarity is not `FusedSimilarity` with squared Euclidean distances, or `compatibility_mode` is
            on.
    """

    similarity_layer: FusedSimilarity

    def build_similarity(self, config: dict[str, Any]) -> None:
        """Make the similarity of the YAML; CaBRNet calls this while it makes the classifier."""
        super().build_similarity(config)
        _check_classifier(self)
        if self.similarity_layer.metric != "sqeuclidean":
            raise ValueError(
                f"similarity: must have metric 'sqeuclidean' in {type(self).__name__}, whose mean distance is a closed "
                f"form; got {self.similarity_layer.metric!r}."
            )

    def forward(self, features: Tensor, gumbel_scale: float = 0, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, C), smallest distances (N, P) and the share of each prototype in each slot (C, P, S)."""
        if gumbel_scale == 0:
            slots = self.proto_slot_map
        else:
            slots = F.gumbel_softmax(self.proto_slot_map * gumbel_scale, tau=0.5, dim=1)
        smallest = self.similarity_layer.nearest(features, self.prototypes).min_distance
        average = mean_distance(features, self.prototypes.flatten(1), backend=self.similarity_layer.backend)
        at_smallest, at_average = (
            self.distances_to_similarities(torch.einsum("bp,cpn->bcn", distances, slots))
            for distances in (smallest, average)
        )
        return self.last_layer((at_smallest - at_average).flatten(1)), smallest, slots


class FusedProtoTreeClassifier(ProtoTreeClassifier):
    """CaBRNet's ProtoTree classifier with the nearest patches in one pass, and no distances of the others.

    Same arguments, parameters, state dict and results as `ProtoTreeClassifier`.

    Raises:
        ValueError: the similarity is not `FusedSimilarity` with activation "exp_root", or `log_probabilities` is on.
    """

    similarity_layer: FusedSimilarity

    def build_similarity(self, config: dict[str, Any]) -> None:
        """Make the similarity of the YAML; CaBRNet calls this while it makes the classifier."""
        super().build_similarity(config)
        _check_similarity(self)
        if self.similarity_layer.activation != "exp_root" or self.log_probabilities:
            raise ValueError(
                f"similarity: must have activation 'exp_root' in {type(self).__name__}, and log_probabilities must be "
                f"off; got {self.similarity_layer.activation!r} and {self.log_probabilities}."
            )

    def forward(
        self, features: Tensor, strategy: SamplingStrategy = SamplingStrategy.DISTRIBUTED, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Probabilities (N, C), and what CaBRNet tells of the nodes of the tree."""
        nearest = self.similarity_layer.nearest(features, self.prototypes).activation  # (N, P)
        # CaBRNet takes the largest similarity of a map; this one has the nearest patch alone.
        tree = copy.copy(self)
        tree.__dict__["similarities"] = lambda *_, **__: nearest[:, :, None, None]
        answer: tuple[Tensor, dict[str, Any]] = ProtoTreeClassifier.forward(tree, features, strategy, **kwargs)
        return answer


def _check_classifier(classifier: Any) -> None:
    _check_similarity(classifier)
    if classifier._compatibility_mode:
        raise ValueError(
            f"compatibility_mode: must be off in {type(classifier).__name__}; got True, which asks for the released "
            f"program's roundings. Leave it out, or choose CaBRNet's {type(classifier).__bases__[0].__name__}."
        )


def _check_similarity(classifier: Any) -> None:
    name = type(classifier).__name__
    layer = type(classifier.similarity_layer)
    if not issubclass(layer, FusedSimilarity):
        raise ValueError(
            f"similarity: must be FusedSimilarity in {name}; got {layer.__name__}. Write 'module: "
            "protokern.interop.cabrnet' and 'name: FusedSimilarity' in the YAML."
        )
