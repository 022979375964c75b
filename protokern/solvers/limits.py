"""What the weights into the logit of a class may say; plain values, without a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

OwnSign = Literal["any", "for"]
OthersSign = Literal["any", "against", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignLimit:
    """Signs of the weights into the logit of a class; "any" leaves them to the settings.

    Attributes:
        own: of inputs of the class: "for" allows no weight below zero.
        others: of inputs of other classes: "against" allows no weight above zero, "none" only zero.

    Raises:
        ValueError: a value is none of these.
    """

    own: OwnSign = "any"
    others: OthersSign = "any"

    def __post_init__(self) -> None:
        for name, choices in (("own", get_args(OwnSign)), ("others", get_args(OthersSign))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: must be one of {', '.join(choices)}; got {getattr(self, name)!r}. Choose one of them."
                )
