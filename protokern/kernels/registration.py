"""Registers the ops in torch's dispatcher: one library, one schema per op, and errors for what no op supports.

`torch.library.custom_op` would do the same with 1.5 to 1.7 times the overhead per call; docs/decisions has the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library, register_fake
from torch.utils._pytree import _register_namedtuple

LIBRARY = Library("protokern", "FRAGMENT")


def register_op(
    schema: str,
    *,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
    function: type[torch.autograd.Function],
) -> torch._ops.OpOverload:
    """Define `protokern::<schema>` and return its overload, ready to be called.

    Args:
        schema: in torch's schema language, without the namespace.
        implementation: computes on real tensors of any device, without autograd.
        fake: the outputs' metadata for `torch.compile`.
        function: autograd Function with the op's arguments; its forward calls the op through `below_autograd`.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag))

    def compute(*args: Any) -> Any:
        with torch._C._DisableAutocast():  # the products inside must not be computed in bfloat16
            return implementation(*args)

    LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    register_fake(f"protokern::{name}", fake, lib=LIBRARY)
    overload = getattr(torch.ops.protokern, name).default
    defaults = [argument.default_value for argument in overload._schema.arguments]

    def autograd(*args: Any) -> Any:
        args = (*args, *defaults[len(args) :])  # the dispatcher leaves out arguments that equal their defaults
        refuse_transforms(name)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        _refuse_tangents(name, tensors)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return function.apply(*args)
        return below_autograd(overload, *args)

    def batched(*args: Any) -> Any:
        raise RuntimeError(_TRANSFORM_MESSAGE.format(name))

    LIBRARY.impl(name, autograd, "Autograd")
    LIBRARY.impl(name, batched, "FuncTorchBatched")
    return overload


def register_result(kind: type[tuple], address: str) -> None:
    """Let an exported program that returns the named tuple `kind` be saved and loaded.

    Args:
        kind: the tuple.
        address: its name in saved programs, which must stay the same wherever the class moves.
    """
    _register_namedtuple(kind, serialized_type_name=address)


def below_autograd(overload: torch._ops.OpOverload, *args: Any) -> Any:
    """Call an op from inside its own autograd Function."""
    with torch._C._AutoDispatchBelowAutograd():
        return overload(*args)


def refuse_transforms(name: str) -> None:
    """Raise inside `torch.func` transforms.

    Raises:
        RuntimeError: vmap, grad, jvp or another transform of `torch.func` is active.
    """
    # A traced call gets here through the op, when the graph runs.
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        raise RuntimeError(_TRANSFORM_MESSAGE.format(name))


def no_second_derivative(name: str) -> type[torch.autograd.Function]:
    """Autograd of op `name`, which computes a gradient; a second derivative raises an error when it is computed."""

    class NoSecondDerivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            return below_autograd(getattr(torch.ops.protokern, name).default, *args)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            raise RuntimeError(
                "double backward: the distances of protokern have first derivatives only. "
                "Call backward() without create_graph=True, or compute this loss with plain torch."
            )

    return NoSecondDerivative


def fake_gradients(_grad: Tensor, features: Tensor, prototypes: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    """Metadata of the gradients: each like its input, or (0,) if the last two arguments say that it is not needed."""
    needs = settings[-2:]
    inputs = (features, prototypes)
    to_features, to_prototypes = (
        torch.empty_like(tensor) if needed else tensor.new_empty(0)
        for tensor, needed in zip(inputs, needs, strict=True)
    )
    return to_features, to_prototypes


def tensors_needed(ctx: Any) -> tuple[bool, bool, bool]:
    """Which inputs need a gradient, for an op with features and prototypes as first and weights as last argument."""
    of_features, of_prototypes, *_, of_weight = ctx.needs_input_grad
    return of_features, of_prototypes, of_weight


def only_needed(grads: tuple[Tensor, Tensor], needs: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of an op for autograd: None instead of empty tensors."""
    return (grads[0] if needs[0] else None), (grads[1] if needs[1] else None)


_TRANSFORM_MESSAGE = (
    "{}: torch.func transforms (vmap, grad, jvp) are not supported. "
    "Batch images along B, and use backward() for gradients."
)


def _refuse_tangents(name: str, tensors: Sequence[Tensor]) -> None:
    if forward_ad._current_level < 0:
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError(f"{name}: forward-mode derivatives are not supported. Use backward() for gradients.")
