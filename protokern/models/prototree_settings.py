"""What a configuration says about a ProtoTree. Torch is not imported here, so settings are checked quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protokern.choices import ActivationName, AddOnName
from protokern.errors import require
from protokern.models.settings import ModelConfig

MOST_LEVELS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtoTreeConfig(ModelConfig):
    """What a configuration says about a ProtoTree.

    Attributes:
        depth: branches from the root to a leaf: the tree has 2 ** depth leaves, and one prototype less.
        leaf_threshold: pruning takes away the leaves whose most probable class has at most this probability, and the
            branches that lead to such leaves alone.
    """

    name: Literal["prototree"] = "prototree"
    prototype_dim: int = 256
    add_on_layers: AddOnName = "single_no_bias"
    activation: ActivationName = "exp_root"
    depth: int = 9
    leaf_threshold: float = 0.01

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        require(1 <= self.depth <= MOST_LEVELS, "depth", f"from 1 to {MOST_LEVELS}", self.depth)
        require(0 <= self.leaf_threshold < 1, "leaf_threshold", "from 0 to below 1", self.leaf_threshold)
        wanted = 'a similarity that is a probability, "exp_root" or "exp"'
        require(self.activation in ("exp_root", "exp"), "activation", wanted, self.activation)
        require(self.top_k == 1, "top_k", "1 in a tree, whose branches ask for the nearest patch", self.top_k)
