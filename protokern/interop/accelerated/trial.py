"""The comparison of a network with its accelerated copy, on made-up features in place of the backbone's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ADVICE = "Put protokern.nn.PrototypeLayer into the network instead."

# Relative to the terms that the programs add up. Their convolutions may round to ten bits (TF32) or eight (bfloat16);
# another formula, such as a square root, is off by far more.
_TOLERANCE = 0.03


class Trial:
    """Two copies of a network that share its parameters, one of them accelerated; the network itself is left alone.

    Attributes:
        before, after: the copies.
        image: images (2, 3, 8, 8) for methods that hand them to the backbone.
        rounding: how far results may differ that only rounding tells apart, relative to them.
    """

    def __init__(self, network: nn.Module, made: type[nn.Module], like: Tensor) -> None:
        self.before: Any = copy.copy(network)
        self.after: Any = copy.copy(network)
        self.after.__class__ = made
        vars(self.after).update(protokern_precision=None, protokern_backend="auto")
        self.image = like.new_zeros(2, 3, 8, 8)
        self.rounding = 1e-3 if like.dtype in (torch.float64, torch.float32) else 5e-2
        self._like = like
        self._generator = torch.Generator().manual_seed(0)

    def draw(self, *shape: int, lowest: float = 0) -> Tensor:
        """Made-up features in [lowest, 1)."""
        drawn = torch.rand(shape, generator=self._generator)
        return (lowest + (1 - lowest) * drawn).to(self._like)

    def pretend(self, name: str, answer: Any) -> None:
        """Let a method or module of both copies return `answer`, whatever it is given."""
        for network in (self.before, self.after):
            if name in network._modules:
                network.__dict__["_modules"] = {**network._modules, name: _Answering(answer)}
            else:
                setattr(network, name, _Answering(answer).forward)

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What the program's own method returns.

        Raises:
            ValueError: it raises an error.
        """
        try:
            with _StayOn(self._like.device):
                return getattr(self.before, method)(*arguments, **options)
        except Exception as error:
            raise ValueError(
                f"model: must run as in the released program; {type(self.before).__name__} raised {error!r}. {ADVICE}"
            ) from error

    def compare(self, method: str, got: Any, wanted: Any, scale: float | Sequence[float] | None = None) -> None:
        """Check that a method returns what it does in the released program.

        Args:
            method: its name, for the message.
            got: what the network's own method returned: tensors in tuples, lists and dicts.
            wanted: what is right.
            scale: size of the terms that the program adds up, of all tensors or of each. None if `wanted` follows from
                the program's own maps, so that its rounding has no part in the difference.

        Raises:
            ValueError: they differ.
        """
        mine, theirs = _leaves(wanted), _leaves(got)
        shapes = [_describe(one) for one in mine]
        if isinstance(got, tuple) != isinstance(wanted, tuple) or [_describe(one) for one in theirs] != shapes:
            what = [_describe(one) for one in theirs]
            raise ValueError(f"model.{method}: must return tensors of shapes {shapes} on a trial; got {what}. {ADVICE}")
        scales = [scale] * len(mine) if scale is None or isinstance(scale, float) else scale
        for one, other, size in zip(theirs, mine, scales, strict=True):
            rtol, atol = (self.rounding, self.rounding) if size is None else (0, size * _TOLERANCE)
            if not _agree(one, other, rtol, atol):
                far = float((one - other).abs().max()) if isinstance(one, Tensor) else f"{one} and {other}"
                apart = f"{far:.3g}" if isinstance(far, float) else far
                raise ValueError(
                    f"model.{method}: must return what the released program does; differs by up to {apart} on a "
                    f"trial. {ADVICE}"
                )


def _leaves(answer: Any) -> list[Any]:
    if isinstance(answer, dict):
        answer = [answer[key] for key in sorted(answer, key=str)]
    return [leaf for part in answer for leaf in _leaves(part)] if isinstance(answer, tuple | list) else [answer]


def _describe(leaf: Any) -> Any:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__


def _agree(one: Any, other: Any, rtol: float, atol: float) -> bool:
    if not isinstance(one, Tensor):
        return bool(one == other)
    return torch.allclose(one, other.to(one.dtype), rtol=rtol, atol=atol, equal_nan=True)


class _Answering(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *_arguments: Any, **_options: Any) -> Any:
        return self.answer


class _StayOn(TorchFunctionMode):
    """Tensors that a program sends to the GPU go to the network's device, so that it can be tried on any."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.cuda:
            return args[0].to(self.device)
        return func(*args, **(kwargs or {}))
