"""Compiles candidates of `tune` in other processes before their turn: a compile takes ten times as long as a timing.

What is compiled lands in Triton's cache on the disk, where the process that measures finds it. Launches are recorded by
tensors without memory, through Triton's own launcher, which stops before the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from protokern.kernels.triton_common.configs import Config, forced
from protokern.kernels.triton_common.limits import DeviceLimits, pretend

Call = Callable[[], object]


def compile_candidate(make_call: Callable[[], Call], config: Config, limits: DeviceLimits) -> str:
    """Compile what a call launches with these tiles; the message of what cannot be compiled, else empty.

    Args:
        make_call: gives the call, on tensors without memory; it must be picklable.
        config: the tiles.
        limits: of the device.
    """
    with forced(config):
        return compile_ahead(make_call(), limits)


def compile_ahead(call: Call, limits: DeviceLimits) -> str:
    """Compile what a call launches, with the tiles that it chooses; the message of what cannot be compiled, else empty.

    Args:
        call: on tensors without memory.
        limits: of the device.
    """
    from triton.errors import TritonError

    with pretend(limits), _compiling_only():
        try:
            call()
        # What the compiler refuses, in its own words or as a failed pass: the measuring process meets it again.
        except (TritonError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
    return ""


def without_memory(size: tuple[int, int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and prototypes of a problem: batch, depth, height, width, prototypes."""
    batch, depth, height, width, num_prototypes = size
    features = torch.empty((batch, depth, height, width), device="meta")
    return features, torch.empty((num_prototypes, depth), device="meta")


@contextmanager
def _compiling_only() -> Iterator[None]:
    from triton.runtime.jit import JITFunction

    original = JITFunction.run

    def run(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return original(kernel, *args, grid=grid, warmup=True, **options)

    JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = original
