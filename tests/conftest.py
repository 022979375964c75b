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
from protokern.kernels.triton_common import availability as triton_availability

# Examples are the same on every run, and a loaded machine fails nothing.
settings.register_profile("protokern", derandomize=True, deadline=None)
settings.load_profile("protokern")

# torch remembers its constructors at the first use of a default device; that must not be the poisoned ones.
with torch.device("meta"):
    torch.empty(0)

# Without a GPU Triton's interpreter runs the kernels, on CPU tensors. This is read once, when triton is first imported.
# torch.compile on the CPU does not mind; what compiles Triton kernels ahead of time does so in a process of its own.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

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


@pytest.fixture(scope="session", params=["reference", "native", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend of the CPU. One that is missing where it should have been built fails the test.

    Of the tests with "triton", which is interpreted here, tests/kernels/interpreted.py chooses some.
    """
    status = available_backends()[request.param]
    if request.param == "triton" and not triton_availability.is_interpreted():
        pytest.skip("backend 'triton': runs on the CUDA device here, in the tests marked gpu")
    if not status.available:
        if request.param == "native" and NATIVE_IS_REQUIRED:
            pytest.fail(f"backend 'native' must be built on this platform: {status.reason}")
        pytest.skip(f"backend {request.param!r}: {status.reason}")
    return request.param
