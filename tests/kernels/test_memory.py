"""The tool that the memory tests rely on sees what it should see."""

from __future__ import annotations

import torch

from .memory import peak_bytes


def test_peak_counts_what_is_held_at_once() -> None:
    def call() -> None:
        for _ in range(3):
            torch.zeros(1000, dtype=torch.float64).add(1)

    assert 16_000 <= peak_bytes(call) < 20_000


def test_peak_sees_memory_that_only_an_op_holds() -> None:
    first, second = torch.ones(200, 200), torch.ones(200, 200)
    assert peak_bytes(lambda: (first @ second).sum().item()) >= 160_000
