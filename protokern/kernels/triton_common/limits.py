"""The limits of one multiprocessor of a device, by which tiles are chosen and shrunk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from .availability import is_interpreted


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """Facts about a CUDA device.

    Attributes:
        arch: compute capability as one number, 90 for 9.0.
        shared_bytes: shared memory that one block may ask for, bytes.
        registers: 32-bit registers that one block may use.
        multiprocessors: their number.
    """

    arch: int
    shared_bytes: int
    registers: int
    multiprocessors: int


# By compute capability, from the CUDA programming guide; multiprocessors of a common device of that kind (T4, A100,
# RTX 3090, RTX 4090, H200, B200, RTX 5090). For ahead-of-time compiles, without a device.
KNOWN_LIMITS = {
    75: DeviceLimits(75, 65_536, 65_536, 40),
    80: DeviceLimits(80, 166_912, 65_536, 108),
    86: DeviceLimits(86, 101_376, 65_536, 82),
    89: DeviceLimits(89, 101_376, 65_536, 128),
    90: DeviceLimits(90, 232_448, 65_536, 132),
    100: DeviceLimits(100, 232_448, 65_536, 148),
    120: DeviceLimits(120, 101_376, 65_536, 170),
}
_pretended: ContextVar[DeviceLimits | None] = ContextVar("_pretended", default=None)


@contextmanager
def pretend(limits: DeviceLimits) -> Iterator[None]:
    """Give every device these limits, for compiles ahead of time and for tests."""
    token = _pretended.set(limits)
    try:
        yield
    finally:
        _pretended.reset(token)


def device_limits(device: torch.device) -> DeviceLimits:
    """Limits of the CUDA device; under the interpreter, of an H200, so that tests take the path of a large device."""
    pretended = _pretended.get()
    if pretended is not None:
        return pretended
    if is_interpreted():
        return KNOWN_LIMITS[90]
    return _cuda_limits(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _cuda_limits(index: int) -> DeviceLimits:
    properties: Any = torch.cuda.get_device_properties(index)  # torch 2.14 declares no more than some of them
    return DeviceLimits(
        arch=10 * properties.major + properties.minor,
        shared_bytes=properties.shared_memory_per_block_optin,
        registers=properties.regs_per_multiprocessor,
        multiprocessors=properties.multi_processor_count,
    )
