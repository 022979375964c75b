"""What the accelerated networks of all programs share, and how their classes are made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .trial import Trial


class Accelerated(nn.Module):
    """A class to mix into a program's. All tensors are read from the network at each call, so nothing becomes stale.

    Attributes:
        protokern_similarity: name of the similarity that may be computed inside the op; "" for none.
        protokern_precision, protokern_backend: options of the ops.
    """

    protokern_similarity: str
    protokern_precision: str | None
    protokern_backend: str

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare every method that the class replaces.

        Returns:
            Name of the similarity if the op computes the program's; otherwise "".

        Raises:
            ValueError: a method of the network returns something else, or cannot run.
        """
        raise NotImplementedError

    def _protokern_options(self) -> dict[str, Any]:
        return {"precision": self.protokern_precision, "backend": self.protokern_backend}

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copies and pickles name the program's own class, since the class of this object is made at run time."""
        state = super().__reduce_ex__(max(protocol, 2))[2:]
        mixin, program = type(self).__bases__
        return (make_empty, (program, mixin), *state)


def as_program(result: Tensor, features: Tensor) -> Tensor:
    """`result` in the dtype of the features, as in the program, but not in half precision under autocast."""
    return result if torch.is_autocast_enabled(features.device.type) else result.to(features.dtype)


def as_rows(vectors: Tensor) -> Tensor:
    """Prototypes (P, D, h, w) as the ops take them: (P, D) if they are one cell."""
    return vectors.flatten(1) if vectors.shape[2:] == (1, 1) else vectors


# One class per pair, so that two accelerated networks of one program are of one type.
_MADE: dict[tuple[type[nn.Module], type[Accelerated]], type[nn.Module]] = {}


def accelerated_class(program: type[nn.Module], mixin: type[Accelerated]) -> type[nn.Module]:
    """The class `program` with its methods replaced by those of `mixin`."""
    if (program, mixin) not in _MADE:
        name = f"Accelerated{program.__name__}"
        _MADE[program, mixin] = type(name, (mixin, program), {"__module__": program.__module__})
    return _MADE[program, mixin]


def make_empty(program: type[nn.Module], mixin: type[Accelerated]) -> nn.Module:
    """A network without state, for copies and pickles to fill."""
    made = accelerated_class(program, mixin)
    return made.__new__(made)
