"""For every test: a seed, one thread, and memory that is NaN until written. Also: which backends must be here."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings

from protokern.kernels import available_backends

# Examples are the same on every run, and a loaded machine fails nothing.
settings.register_profile("protokern", derandomize=True, deadline=None)
settings.load_profile("protokern")

# torch remembers its constructors at the first use of a default device; that must not be the poisoned ones.
with torch.device("meta"):
    torch.empty(0)

NATIVE_IS_REQUIRED = (
    platform.system() == "Linux"
    and platform.machine() in ("x86_64", "AMD64")
    and os.environ.get("PROTOKERN_BUILD") != "none"
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what `torch.empty` and its kin return, so that an output that is never written fails a comparison."""
    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
        (torch.Tensor, "new_empty_strided"),
    ):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))


def _poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = make(*args, **kwargs)
        with torch.no_grad():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
            elif tensor.dtype in (torch.int32, torch.int64):
                tensor.fill_(-7_777_777)
        return tensor

    return poisoned


@pytest.fixture(scope="session", params=["reference", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend of the CPU. One that is missing where it should have been built fails the test."""
    status = available_backends()[request.param]
    if not status.available:
        if NATIVE_IS_REQUIRED:
            pytest.fail(f"backend {request.param!r} must be built on this platform: {status.reason}")
        pytest.skip(f"backend {request.param!r}: {status.reason}")
    return request.param
