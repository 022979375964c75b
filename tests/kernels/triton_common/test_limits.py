"""The limits that tiles are chosen by."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from protokern.kernels.triton_common import limits
from protokern.kernels.triton_common.limits import KNOWN_LIMITS, DeviceLimits, device_limits


def test_of_a_device_are_asked_from_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(
        major=8,
        minor=6,
        shared_memory_per_block_optin=101_376,
        regs_per_multiprocessor=65_536,
        multi_processor_count=82,
    )
    limits._cuda_limits.cache_clear()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    assert device_limits(torch.device("cuda", 0)) == KNOWN_LIMITS[86]
    limits._cuda_limits.cache_clear()


def test_under_the_interpreter_are_those_of_a_large_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert device_limits(torch.device("cpu")) == DeviceLimits(90, 232_448, 65_536, 132)


def test_known_limits_are_named_by_their_architecture() -> None:
    assert all(name == known.arch for name, known in KNOWN_LIMITS.items())
