"""What a configuration says about a TesNet. Torch is not imported here, so settings are checked quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from protokern.choices import ActivationName, MetricName
from protokern.errors import require, require_number
from protokern.models.settings import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TesNetConfig(ModelConfig):
    """What a configuration says about a TesNet. The defaults are the released program's.

    Attributes:
        prototypes_per_class: concepts of each class, which span its subspace.
        correct_class_weight: initial weight of a prototype for its own class.
        incorrect_class_weight: initial weight of a prototype for every other class.
        orthonormality: coefficient of the term that makes the prototypes of a class orthogonal.
        subspace_separation: coefficient of the distances between the subspaces of the classes. They should be large,
            hence the negative sign.
    """

    name: Literal["tesnet"] = "tesnet"
    prototype_dim: int = 64
    activation: ActivationName = "linear"
    metric: MetricName = "dot"
    prototypes_per_class: int = 10
    correct_class_weight: float = 1.0
    incorrect_class_weight: float = -0.5
    orthonormality: float = 1e-4
    subspace_separation: float = -1e-7

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        require(self.metric == "dot", "metric", '"dot" in a TesNet, which projects patches', self.metric)
        require_number(self, "prototypes_per_class", minimum=1)
        for name in ("correct_class_weight", "incorrect_class_weight", "orthonormality", "subspace_separation"):
            require(math.isfinite(getattr(self, name)), name, "a finite number", getattr(self, name))
