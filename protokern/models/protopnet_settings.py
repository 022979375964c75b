"""What a configuration says about a ProtoPNet. Torch is not imported here, so settings are checked quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from protokern.errors import require, require_number
from protokern.models.settings import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtoPNetConfig(ModelConfig):
    """What a configuration says about a ProtoPNet. The defaults are the released program's.

    Attributes:
        prototypes_per_class: prototypes of each class.
        correct_class_weight: initial weight of a prototype for its own class.
        incorrect_class_weight: initial weight of a prototype for every other class.
    """

    name: Literal["protopnet"] = "protopnet"
    prototypes_per_class: int = 10
    correct_class_weight: float = 1.0
    incorrect_class_weight: float = -0.5

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        require_number(self, "prototypes_per_class", minimum=1)
        for name in ("correct_class_weight", "incorrect_class_weight"):
            require(math.isfinite(getattr(self, name)), name, "a finite number", getattr(self, name))
