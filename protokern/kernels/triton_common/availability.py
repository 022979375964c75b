"""Whether the Triton kernels can run here, and on which device. Imports no triton."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

OLDEST_TRITON = (3, 6)
# Turing: the oldest devices whose tensor cores Triton's current releases compile for.
OLDEST_CAPABILITY = (7, 5)


def is_interpreted() -> bool:
    """Whether Triton runs its kernels in Python on CPU tensors, for tests; about 10,000 times slower than a GPU.

    Triton decides when a kernel is defined, so TRITON_INTERPRET must be set before anything imports triton.
    """
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def device_types() -> tuple[str, ...]:
    """Types of the devices that the kernels run on in this process."""
    return ("cpu",) if is_interpreted() else ("cuda",)


def unavailable_reason() -> str:
    """Why the kernels can run on no device and what to do; empty if there is a device for them."""
    missing = _package_problem()
    if missing or is_interpreted():
        return missing
    return _cuda_devices_problem()


def device_problem(device: torch.device) -> str:
    """Why the kernels do not run on this device of one of `device_types()`; empty if they do."""
    missing = _package_problem()
    if missing or is_interpreted():
        return missing
    return _cuda_problem(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _package_problem() -> str:
    wanted = ".".join(map(str, OLDEST_TRITON))
    remedy = f"Run 'pip install triton>={wanted}', or use backend='auto'."
    try:
        found = version("triton")
    except PackageNotFoundError:
        return f"triton is not installed. {remedy}"
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_TRITON:
        return f"triton {found} is older than {wanted}. {remedy}"
    return ""


@cache
def _cuda_devices_problem() -> str:
    if not torch.cuda.is_available():
        return "no CUDA device is present. Use backend='auto'."
    problems = [_cuda_problem(index) for index in range(torch.cuda.device_count())]
    return "" if "" in problems else problems[0]


@cache
def _cuda_problem(index: int) -> str:
    if torch.version.hip is not None:
        return "the kernels are made for NVIDIA devices; this torch is built for ROCm. Use backend='auto'."
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST_CAPABILITY:
        name = torch.cuda.get_device_name(index)
        return (
            f"{name} has compute capability {capability[0]}.{capability[1]}; "
            f"{OLDEST_CAPABILITY[0]}.{OLDEST_CAPABILITY[1]} or newer is needed. Use backend='auto'."
        )
    return ""
