"""What a configuration says about a PIP-Net. Torch is not imported here, so settings are checked quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protokern.choices import MOST_EPOCHS, ActivationName, AddOnName
from protokern.errors import require, require_number
from protokern.models.settings import ModelConfig

# Settings that say nothing about a PIP-Net, with the values that they have if nobody sets them.
_FIXED = {
    "prototype_dim": 128,
    "prototype_size": (1, 1),
    "add_on_layers": "linear",
    "activation": "exp",
    "metric": "sqeuclidean",
    "salience": 0.0,
    "top_k": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PIPNetConfig(ModelConfig):
    """What a configuration says about a PIP-Net.

    Attributes:
        num_prototypes: channels that a 1x1 convolution makes of the backbone's; 0: those of the backbone itself.
        bias: the scoring sheet has a bias for every class. It then abstains only while no bias is above 0.
        power: the logit of a class with score z is log(1 + z ** power), at least 1.
        smallest_presence: in evaluation, presences below this count as 0.
        shrink: taken from every weight of the scoring sheet after every step outside of the pre-training.
        pretrain_epochs: epochs in which the channels learn from pairs of views alone, without labels.
        sheet_epochs: epochs after that in which only the scoring sheet learns; none without pre-training.
        sheet_lr: learning rate of the scoring sheet.
        alignment, presence, classification: coefficients of the loss terms after the pre-training; `classification` is
            multiplied with `train.cross_entropy`.
        pretrain_alignment, pretrain_presence: coefficients in the pre-training; that of the alignment rises to its
            value over the epochs.
        early_layers: submodules of the backbone that learn in the joint stage alone, such as "body.0".
    """

    name: Literal["pipnet"] = "pipnet"
    add_on_layers: AddOnName = "linear"
    activation: ActivationName = "exp"
    num_prototypes: int = 0
    bias: bool = False
    power: float = 2.0
    smallest_presence: float = 0.1
    shrink: float = 1e-3
    pretrain_epochs: int = 10
    sheet_epochs: int = 3
    sheet_lr: float = 0.05
    alignment: float = 5.0
    presence: float = 2.0
    classification: float = 2.0
    pretrain_alignment: float = 1.0
    pretrain_presence: float = 5.0
    early_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        for name, value in _FIXED.items():
            wanted = f"left at {value!r} for a PIP-Net, whose prototypes are channels"
            require(getattr(self, name) == value, name, wanted, getattr(self, name))
        require_number(self, "num_prototypes", "shrink", "sheet_lr")
        require_number(self, "power", minimum=1)
        require(0 <= self.smallest_presence < 1, "smallest_presence", "from 0 to below 1", self.smallest_presence)
        for name in ("pretrain_epochs", "sheet_epochs"):
            require_number(self, name)
            require(getattr(self, name) <= MOST_EPOCHS, name, f"at most {MOST_EPOCHS}", getattr(self, name))
        require_number(self, "alignment", "presence", "classification", "pretrain_alignment", "pretrain_presence")
