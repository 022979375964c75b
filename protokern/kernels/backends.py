"""Which implementations of the ops exist here, and which one a call uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import BackendUnavailableError
from . import native_library

BACKENDS = ("reference", "native", "triton")
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """Whether a backend can run in this process.

    Attributes:
        available: it can be named in a call.
        devices: device types it runs on; "any" for all.
        reason: why it is not available and what to do; empty when it is.
    """

    available: bool
    devices: tuple[str, ...]
    reason: str


def available_backends() -> dict[str, BackendStatus]:
    """Every backend by name, with the reason where one cannot run."""
    return {name: _status(name) for name in BACKENDS}


def check_names(backend: str, precision: str | None) -> None:
    """Check that both are known names, whether or not they can run here.

    Raises:
        ValueError: one is not.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend: must be 'auto' or one of {', '.join(BACKENDS)}; got {backend!r}.")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision: must be None or one of {', '.join(PRECISIONS)}; got {precision!r}.")


def choose_backend(backend: str, device: torch.device, precision: str | None) -> str:
    """The backend that serves a call on `device`: "auto" takes native on the CPU where it is built, else reference.

    Called when the op runs, not when it is traced, so that a compiled graph finds what its own process has.

    Raises:
        ValueError: the backend cannot search in that precision.
        BackendUnavailableError: `backend` was named but cannot run here or not on this device.
    """
    if backend == "auto":
        chosen = "native" if device.type == "cpu" and native_library.is_available() else "reference"
    else:
        _require(backend, device)
        chosen = backend
    if precision in ("tf32", "bf16"):
        raise ValueError(
            f"precision: must be None or 'fp32' for backend {chosen!r} on {device.type}; got {precision!r}. "
            "This backend searches in float32 (float64 for float64 inputs)."
        )
    return chosen


def _require(backend: str, device: torch.device) -> None:
    status = _status(backend)
    if not status.available:
        raise BackendUnavailableError(f"backend {backend!r}: {status.reason}")
    if "any" not in status.devices and device.type not in status.devices:
        raise BackendUnavailableError(
            f"backend {backend!r}: runs on {', '.join(status.devices)} only; the tensors are on {device.type}. "
            "Move them, or use backend='auto'."
        )


def _status(backend: str) -> BackendStatus:
    if backend == "reference":
        return BackendStatus(True, ("any",), "")
    if backend == "triton":
        return BackendStatus(False, ("cuda",), "not in this version. Use backend='auto'.")
    try:
        native_library.load()
    except BackendUnavailableError as error:
        return BackendStatus(False, ("cpu",), str(error).removeprefix("backend 'native': "))
    return BackendStatus(True, ("cpu",), "")
