"""What a configuration says about a ProtoPool. Torch is not imported here, so settings are checked quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from protokern.choices import AddOnName
from protokern.errors import require, require_number
from protokern.models.settings import ModelConfig

Focal = Literal["distance", "similarity"]
LastLayerName = Literal["linear", "sum"]
FOCALS: tuple[Focal, ...] = get_args(Focal)
LAST_LAYERS: tuple[LastLayerName, ...] = get_args(LastLayerName)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtoPoolConfig(ModelConfig):
    """What a configuration says about a ProtoPool.

    Attributes:
        num_prototypes: prototypes in the pool; 0: as many as there are classes, and at least twice `slots_per_class`.
        slots_per_class: prototypes that a class uses.
        focal: "distance": the focal similarity is computed from mixed distances, as in the released program;
            "similarity": it is the largest similarity minus the mean one, as in the paper.
        last_layer: "linear", weights over all K * S slots; or "sum", a class is the sum of its slots.
        schedule_epochs: epochs until the choices are nearly final, counted over the warm and joint stages. The paper's
            epochs have about 2,250 steps: a small data set, with fewer steps per epoch, needs more epochs.
        correct_class_weight: initial weight of a slot for its own class.
        incorrect_class_weight: initial weight of a slot for every other class.
        compat: use the orthogonality and separation terms of the released program.
    """

    name: Literal["protopool"] = "protopool"
    add_on_layers: AddOnName = "single"
    num_prototypes: int = 0
    slots_per_class: int = 10
    focal: Focal = "distance"
    last_layer: LastLayerName = "linear"
    schedule_epochs: int = 30
    correct_class_weight: float = 1.0
    incorrect_class_weight: float = 0.0
    compat: bool = False

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        require_number(self, "num_prototypes")
        require_number(self, "slots_per_class", "schedule_epochs", minimum=1)
        for name in ("correct_class_weight", "incorrect_class_weight"):
            require(math.isfinite(getattr(self, name)), name, "a finite number", getattr(self, name))
        require(
            self.num_prototypes == 0 or self.num_prototypes >= self.slots_per_class,
            "num_prototypes",
            f"at least slots_per_class ({self.slots_per_class}), or 0",
            self.num_prototypes,
        )
        # Otherwise soft slots mix the smallest distances, which says nothing about the next nearest ones.
        is_mean_of_similarities = self.focal == "similarity" and not self.salience
        require(
            self.top_k == 1 or is_mean_of_similarities,
            "top_k",
            '1 unless focal is "similarity" and salience is 0',
            self.top_k,
        )
