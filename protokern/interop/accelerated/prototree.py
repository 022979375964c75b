"""ProtoTree: a prototype at every branch of a tree, present with probability exp(-d) of the smallest distance d.

Source: the class ProtoTree in github.com/M-Nauta/ProtoTree, prototree/prototree.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from protokern.kernels import distance_map, min_distance
from protokern.kernels.similarity import ROOT_OFFSET

from .base import Accelerated, as_program, as_rows
from .protopnet import draw_for, largest_square
from .trial import Trial

_STRATEGIES = ("distributed", "sample_max", "greedy")


class AcceleratedProtoTree(Accelerated):
    """ProtoTree's forward pass up to the tree; the walk through its nodes is the program's."""

    num_prototypes: int
    prototype_layer: Any
    leaves: Iterable[Any]
    branches: Iterable[Any]
    nodes: Iterable[Any]
    _net: nn.Module
    _add_on: nn.Module
    _root: Any
    _out_map: dict[Any, int]
    _log_probabilities: bool

    def forward(
        self, xs: Tensor, sampling_strategy: str = "distributed", **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Class probabilities (B, K) of images (B, 3, Y, X), or their logarithms, and what happened at the nodes.

        Args:
            xs: images.
            sampling_strategy: "distributed", "sample_max" or "greedy".
            **kwargs: handed to the nodes.

        Raises:
            ValueError: the strategy is unknown, or a distance is NaN.
        """
        if sampling_strategy not in _STRATEGIES:
            raise ValueError(
                f"sampling_strategy: must be one of {', '.join(_STRATEGIES)}; got {sampling_strategy!r}. Choose one."
            )
        features = self._add_on(self._net(xs))
        nearest = min_distance(features, self._protokern_rows(), **self._protokern_options())
        smallest = as_program(_root(nearest.value), features)
        if torch.isnan(smallest).any():
            raise ValueError(
                "xs: must have features without NaN; got NaN. Train with --log_probabilities, or with a smaller rate."
            )
        return self._protokern_walk(xs, smallest, sampling_strategy, kwargs)

    def forward_partial(self, xs: Tensor) -> tuple[Tensor, Tensor, dict[Any, int]]:
        """Features (B, D, H, W), distances (B, P, H, W), and which branch has which prototype."""
        features = self._add_on(self._net(xs))
        distances = distance_map(features, self._protokern_rows(), backend=self.protokern_backend)
        return features, as_program(_root(distances), features), dict(self._out_map)

    def protokern_outputs(self, distances: Tensor, strategy: str) -> tuple[Tensor, dict[str, Any]]:
        """What the program's `forward` returns for its own distances (B, P, H, W)."""
        return self._protokern_walk(distances, distances.amin((2, 3)), strategy, {})

    def _protokern_rows(self) -> Tensor:
        return as_rows(self.prototype_layer.prototype_vectors)

    def _protokern_walk(
        self, xs: Tensor, smallest: Tensor, strategy: str, options: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """From distances (B, P) to the answer; of `xs` the nodes take the number of images and the device."""
        present = -smallest if self._log_probabilities else torch.exp(-smallest)
        columns = present.chunk(self.num_prototypes, dim=1)
        answer, seen = self._root.forward(xs, conv_net_output=columns, out_map=dict(self._out_map), **options)
        info: dict[str, Any] = {
            "pa_tensor": {node.index: seen[node, "pa"].unsqueeze(1) for node in self.nodes},
            "ps": {branch.index: seen[branch, "ps"].unsqueeze(1) for branch in self.branches},
        }
        if strategy == "distributed":
            return answer, info
        images = range(len(smallest))
        if strategy == "sample_max":
            leaves = list(self.leaves)
            reached = torch.stack([seen[leaf, "pa"] for leaf in leaves], dim=1)  # (B, L)
            ends = [leaves[best] for best in reached.argmax(1).tolist()]
        else:
            ends = self._protokern_greedy_leaves(seen, len(smallest))
        info["out_leaf_ix"] = [leaf.index for leaf in ends]
        return torch.stack([seen[leaf, "ds"][image] for image, leaf in zip(images, ends, strict=True)]), info

    def _protokern_greedy_leaves(self, seen: Any, images: int) -> list[Any]:
        """The leaf of every image where one arrives by going right where that is likelier."""
        present = {branch: seen[branch, "ps"].tolist() for branch in self.branches}
        threshold = math.log(0.5) if self._log_probabilities else 0.5
        ends = []
        for image in range(images):
            node = self._root
            while node in present:
                node = node.r if present[node][image] > threshold else node.l
            ends.append(node)
        return ends

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare the distances, and what `forward` makes of them by each strategy."""
        vectors = trial.before.prototype_layer.prototype_vectors
        features = draw_for(trial, vectors)
        # The first image goes right at the root; the second, far from all prototypes, goes left.
        of_root = vectors[trial.before._out_map[trial.before._root], :, 0, 0]
        features[0, :, 0, 0] = of_root + 0.3 / len(of_root) ** 0.5
        features[1] += 1
        for part in ("_net", "_add_on"):
            trial.pretend(part, features)
        distances = trial.ask("forward_partial", trial.image)[1]
        wanted = trial.after.forward_partial(trial.image)[1]
        # Their squares, because the root of a rounded small number is far off.
        trial.compare("forward_partial", distances**2, wanted**2, largest_square(features, vectors))
        for strategy in _STRATEGIES:
            answer = trial.ask("forward", trial.image, sampling_strategy=strategy)
            trial.compare("forward", answer, trial.after.protokern_outputs(distances, strategy))
        return ""


def _root(squared: Tensor) -> Tensor:
    return torch.sqrt(squared + ROOT_OFFSET)
