"""The methods that replace those of the released TesNet and ProtoTree programs, as classes to mix into theirs."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.kernels import distance_map, min_distance
from protokern.kernels.similarity import ROOT_OFFSET

from .accelerated import Accelerated, as_program

_STRATEGIES = ("distributed", "sample_max", "greedy")


class AcceleratedTesNet(Accelerated):
    """TesNet's forward pass: the largest projections on unit prototypes, and the largest cosines."""

    has_similarity: ClassVar[bool] = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the negatives of the largest cosines (B, P) of images (B, 3, Y, X)."""
        features = self.conv_features(x)
        vectors, options = self._protokern_prototypes(), self._protokern_options()
        projection = -min_distance(features, vectors, metric="dot", **options).value
        cosine = min_distance(features, vectors, metric="cosine", **options).value - 1
        return self.last_layer(as_program(projection, features)), as_program(cosine, features)

    def protokern_outputs(self, projection: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
        """What the program's `forward` returns for its own maps (B, P, H, W)."""
        return self.last_layer(projection.amax((2, 3))), cosine.amin((2, 3))

    def _project2basis(self, x: Tensor) -> Tensor:
        """Projections (B, P, H, W) of features (B, D, H, W)."""
        projection = -distance_map(x, self._protokern_prototypes(), metric="dot", backend=self.protokern_backend)
        return as_program(projection, x)

    def _cosine_convolution(self, x: Tensor) -> Tensor:
        """Negative cosines (B, P, H, W) of features (B, D, H, W)."""
        distances = distance_map(x, self._protokern_prototypes(), metric="cosine", backend=self.protokern_backend)
        return as_program(distances - 1, x)

    def _protokern_prototypes(self) -> Tensor:
        vectors = F.normalize(self.prototype_vectors, dim=1)
        return vectors.flatten(1) if vectors.shape[2:] == (1, 1) else vectors


class AcceleratedProtoTree(Accelerated):
    """ProtoTree's forward passes; the tree itself is the program's."""

    has_similarity: ClassVar[bool] = False
    map_method: ClassVar[str] = "forward_partial"
    vectors_at: ClassVar[str] = "prototype_layer.prototype_vectors"

    _net: nn.Module
    _add_on: nn.Module
    _root: Any
    _out_map: dict[Any, int]
    _log_probabilities: bool
    prototype_layer: Any
    nodes: set[Any]
    branches: set[Any]
    leaves: set[Any]

    def forward(
        self, xs: Tensor, sampling_strategy: str = "distributed", **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Probabilities (B, K) of images (B, 3, Y, X) or their logarithms, and what the program tells of the tree."""
        if sampling_strategy not in _STRATEGIES:
            raise ValueError(
                f"sampling_strategy: must be one of {', '.join(_STRATEGIES)}; got {sampling_strategy!r}. Check the "
                "spelling."
            )
        features = self._add_on(self._net(xs))
        nearest = min_distance(features, self._protokern_prototypes(), **self._protokern_options()).value
        root = as_program((nearest + ROOT_OFFSET).sqrt(), features)
        answer, attributes, info = self._protokern_walk(xs, root, kwargs)
        if sampling_strategy == "distributed":
            return answer, info
        leaves = self._protokern_leaves(attributes, len(xs), is_greedy=sampling_strategy == "greedy")
        info["out_leaf_ix"] = [leaf.index for leaf in leaves]
        return torch.stack([attributes[leaf, "ds"][0] for leaf in leaves]).to(xs.device), info

    def forward_partial(self, xs: Tensor) -> tuple[Tensor, Tensor, dict[Any, int]]:
        """Features (B, D, H, W), the roots of their distances (B, P, H, W), and the prototypes of the branches."""
        features = self._add_on(self._net(xs))
        distances = distance_map(features, self._protokern_prototypes(), backend=self.protokern_backend)
        return features, as_program((distances + ROOT_OFFSET).sqrt(), features), dict(self._out_map)

    def protokern_outputs(self, distances: Tensor) -> tuple[Tensor]:
        """What the program's `forward` answers for its own distances (B, P, H, W)."""
        return (self._protokern_walk(distances, distances.amin((2, 3)), {})[0],)

    def _protokern_walk(
        self, xs: Tensor, root: Tensor, given: dict[str, Any]
    ) -> tuple[Tensor, dict[Any, Tensor], dict[str, Any]]:
        """The answer of the program's tree for the smallest roots of distances (B, P), and what it noted on the way."""
        present = -root if self._log_probabilities else torch.exp(-root)
        given = {**given, "conv_net_output": present.chunk(present.shape[1], dim=1), "out_map": dict(self._out_map)}
        answer, attributes = self._root.forward(xs, **given)
        info = {
            "pa_tensor": {node.index: attributes[node, "pa"].unsqueeze(1) for node in self.nodes},
            "ps": {branch.index: attributes[branch, "ps"].unsqueeze(1) for branch in self.branches},
        }
        return answer, attributes, info

    def _protokern_leaves(self, attributes: dict[Any, Tensor], count: int, *, is_greedy: bool) -> list[Any]:
        """The one leaf that answers for each image: where the likelier sides lead, or the most probable one."""
        if not is_greedy:
            leaves = list(self.leaves)
            best = torch.stack([attributes[leaf, "pa"] for leaf in leaves]).argmax(0)  # (B,)
            return [leaves[number] for number in best.tolist()]
        half = math.log(0.5) if self._log_probabilities else 0.5
        is_present = {branch: (attributes[branch, "ps"] > half).tolist() for branch in self.branches}
        chosen = []
        for image in range(count):
            node = self._root
            while node in is_present:
                node = node.r if is_present[node][image] else node.l
            chosen.append(node)
        return chosen

    def _protokern_prototypes(self) -> Tensor:
        vectors: Tensor = self.prototype_layer.prototype_vectors
        return vectors.flatten(1) if vectors.shape[2:] == (1, 1) else vectors

    @staticmethod
    def protokern_feed(network: Any, features: Tensor) -> None:
        """Let a copy of a network take `features` in place of those of its own layers."""
        network._modules = {**network._modules, "_net": _Given(features), "_add_on": nn.Identity()}

    @staticmethod
    def protokern_maps(result: Any) -> tuple[Any, ...]:
        """The distances among what `forward_partial` returns."""
        return result[1:2] if isinstance(result, tuple) else (result,)

    @staticmethod
    def protokern_tensors(result: Any) -> Any:
        """The answer among what `forward` returns."""
        return result[:1] if isinstance(result, tuple) else result

    @staticmethod
    def protokern_scale(norms: float) -> float:
        """How large distances are, for features and prototypes of these squared norms."""
        return norms**0.5


class _Given(nn.Module):
    """Gives the same features for any images."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, _: Tensor) -> Tensor:
        return self.features
