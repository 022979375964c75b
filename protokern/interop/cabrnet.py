"""A similarity and three classifiers that CaBRNet 1.2 selects by name from its YAML files.

docs/interop.md has the YAML. Importing this module needs the package `cabrnet`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from protokern.kernels import PrototypePool, distance_map, prototype_pool
from protokern.kernels.backends import check_names
from protokern.kernels.checks import check_activation, check_epsilon
from protokern.kernels.metric import METRICS
from protokern.kernels.similarity import ROOT_OFFSET, activate
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
        activation: similarity of a distance, "log", "linear", "exp", "cosine" or, for ProtoTree, "exp_root"; see
            `protokern.prototype_pool`.
        metric: "sqeuclidean", "cosine" or "dot".
        stability_factor: CaBRNet's name for the epsilon of "log", 1e-4 if None; of "exp_root" it is 1e-14.
        precision: how the nearest patch is searched; see `protokern.min_distance`.
        backend: see `protokern.min_distance`.
        num_prototypes: given by CaBRNet; not needed.
        num_features: given by CaBRNet; not needed.
        log_probabilities: give the logarithm of "exp_root", as a ProtoTree with `log_probabilities` takes it.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    def __init__(
        self,
        activation: str = "log",
        metric: str = "sqeuclidean",
        stability_factor: float | None = None,
        precision: str | None = None,
        backend: str = "auto",
        num_prototypes: int = 0,
        num_features: int = 0,
        log_probabilities: bool = False,
    ) -> None:
        super().__init__()
        if metric not in METRICS:
            raise ValueError(f"metric: must be one of {', '.join(METRICS)}; got {metric!r}.")
        check_activation(activation, metric)
        check_names(backend, precision)
        is_root = activation == "exp_root"
        if is_root and stability_factor not in (None, ROOT_OFFSET):
            raise ValueError(
                f"stability_factor: must be {ROOT_OFFSET} with activation 'exp_root'; got {stability_factor}. Leave it "
                "out."
            )
        if log_probabilities and not is_root:
            raise ValueError(
                f"log_probabilities: must be off unless activation is 'exp_root'; got True with {activation!r}. Leave "
                "it out, or choose 'exp_root'."
            )
        if stability_factor is None:
            stability_factor = ROOT_OFFSET if is_root else 1e-4
        self.activation = activation
        self.metric = metric
        self.stability_factor = check_epsilon(stability_factor)
        self.log_probabilities = log_probabilities
        self.precision = precision
        self.backend = backend

    def distances(self, features: Tensor, prototypes: Tensor, **kwargs: Any) -> Tensor:
        """Distances (N, P, H, W) of features (N, D, H, W) and prototypes (P, D, 1, 1)."""
        return distance_map(features, prototypes.flatten(1), metric=self.metric, backend=self.backend)

    def distances_to_similarities(self, distances: Tensor, **kwargs: Any) -> Tensor:
        """Similarities of distances of any shape."""
        if self.log_probabilities:
            return -torch.sqrt(distances + self.stability_factor)
        return activate(distances, self.activation, self.stability_factor)

    def nearest(self, features: Tensor, prototypes: Tensor) -> PrototypePool:
        """Similarity, smallest distance and nearest patch, each (N, P), without the distances of the other patches."""
        return prototype_pool(
            features,
            prototypes.flatten(1),
            activation=self.distances_to_similarities if self.log_probabilities else self.activation,
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
    """CaBRNet's ProtoTree classifier, whose forward pass never holds the distances of all patches.

    Same arguments, parameters, state dict and results as `ProtoTreeClassifier`.

    Raises:
        ValueError: the similarity is not `FusedSimilarity` with "exp_root", or only one of the two has
            `log_probabilities`.
    """

    similarity_layer: FusedSimilarity

    def build_similarity(self, config: dict[str, Any]) -> None:
        """Make the similarity of the YAML; CaBRNet calls this while it makes the classifier."""
        super().build_similarity(config)
        _check_classifier(self)
        layer, name = self.similarity_layer, type(self).__name__
        if layer.activation != "exp_root":
            raise ValueError(
                f"similarity: must have activation 'exp_root' in {name}, whose branches take it as a probability; got "
                f"{layer.activation!r}. Write 'activation: exp_root' into its params."
            )
        if layer.log_probabilities != self.log_probabilities:
            raise ValueError(
                f"similarity: must have log_probabilities {self.log_probabilities}, as {name} has; got "
                f"{layer.log_probabilities}. Write it into the params of both."
            )

    def forward(
        self, features: Tensor, strategy: SamplingStrategy = SamplingStrategy.DISTRIBUTED, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Class probabilities (N, C) of features (N, D, H, W), or their logarithms, and what happened at the nodes."""
        pool = self.similarity_layer.nearest(features, self.prototypes)
        prediction, seen = self.tree(
            parent_probs=self._root_prob,
            conditional_probs=self._root_prob,
            similarities=pool.activation,
            greedy_path=self._root_greedy_path,
        )
        if strategy is SamplingStrategy.DISTRIBUTED:
            return prediction, seen
        # CaBRNet 1.2 takes the likeliest leaf for both other strategies.
        leaves = list(self.tree.leaves)
        reached = torch.cat([seen[leaf.node_id]["absolute_probability"] for leaf in leaves], dim=1)  # (N, L)
        likeliest = reached.argmax(dim=1)
        seen["decision_leaf"] = [leaves[index].node_id for index in likeliest.tolist()]
        return torch.cat([leaf.distribution for leaf in leaves]).index_select(0, likeliest), seen


def _check_classifier(classifier: Any) -> None:
    name = type(classifier).__name__
    layer = type(classifier.similarity_layer)
    if not issubclass(layer, FusedSimilarity):
        raise ValueError(
            f"similarity: must be FusedSimilarity in {name}; got {layer.__name__}. Write 'module: "
            "protokern.interop.cabrnet' and 'name: FusedSimilarity' in the YAML."
        )
    if getattr(classifier, "_compatibility_mode", False):  # which ProtoTree's lacks
        raise ValueError(
            f"compatibility_mode: must be off in {name}; got True, which asks for the released program's roundings. "
            f"Leave it out, or choose CaBRNet's {type(classifier).__bases__[0].__name__}."
        )
