"""Which implementations of the ops can run here, and which one a call uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..choices import PRECISIONS
from ..choices import PrecisionName as PrecisionName
from ..errors import BackendUnavailableError
from . import fastest, native_library
from .triton_common import availability as triton_availability
from .triton_common.limits import device_limits

BACKENDS = ("reference", "native", "triton")
# Devices on which the search of a backend takes patch weights; "any" for all.
WEIGHING: dict[str, tuple[str, ...]] = {"reference": ("any",), "native": ("cpu", "cuda"), "triton": ("any",)}


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """Whether a backend can run in this process.

    Attributes:
        available: whether it can be named in a call.
        devices: device types that it runs on; "any" for all. Under TRITON_INTERPRET=1 "triton" runs on "cpu", for
            tests.
        reason: why it is not available and what to do; empty if it is available.
    """

    available: bool
    devices: tuple[str, ...]
    reason: str


def available_backends() -> dict[str, BackendStatus]:
    """Every backend by name, with the reason if it cannot run."""
    return {name: _status(name) for name in BACKENDS}


def check_names(backend: str, precision: str | None) -> None:
    """Check that both names are known, whether or not they can run here.

    Raises:
        ValueError: a name is unknown.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend: must be 'auto' or one of {', '.join(BACKENDS)}; got {backend!r}.")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision: must be None or one of {', '.join(PRECISIONS)}; got {precision!r}.")


class Choice(NamedTuple):
    """The backend and the precision of a call.

    Attributes:
        backend: name of the backend.
        precision: of its search, one of PRECISIONS; "fp32" means float64 for float64 inputs.
    """

    backend: str
    precision: str


def choose_backend(
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    precision: str | None,
    op: str = "",
    features: Tensor | None = None,
    prototypes: Tensor | None = None,
    direction: str = "forward",
    is_weighted: bool = False,
) -> Choice:
    """The backend and the precision for a call with tensors of `dtype` on `device`.

    Of the backends that can run on the device, "auto" takes triton before native before reference. On a CUDA device on
    which triton and native were both measured (fastest.py), it takes the quicker one if `op` and its inputs are given.
    With `is_weighted`, "auto" takes only backends whose search takes patch weights.

    `precision` is the coarsest precision that is allowed. If the backend lacks it, the next more precise one is used;
    float64 inputs are always searched in float64. None allows a precision that represents half inputs without loss, and
    for float32 inputs the one that torch is set to use for products.

    This is called when the op runs, not when it is traced, so that a compiled graph uses what its process has.

    Raises:
        BackendUnavailableError: `backend` was named but cannot run here, on this device or with weights.
    """
    if backend == "auto":
        chosen = _first_choice(device, is_weighted)
        if chosen == "triton" and features is not None and prototypes is not None:
            quicker = _quicker(op, direction, precision, features, prototypes)
            chosen = quicker if quicker and (not is_weighted or _weighs(quicker, device)) else chosen
    else:
        _require(backend, device)
        if is_weighted and not _weighs(backend, device):
            raise BackendUnavailableError(
                f"backend {backend!r}: takes no patch_weight on {device.type}. "
                "Use backend='auto', or leave the weights out."
            )
        chosen = backend
    offered = ("fp32",) if dtype == torch.float64 else precisions(chosen, device.type)
    coarsest = precision or _natural_precision(device, dtype)
    allowed = PRECISIONS[: PRECISIONS.index(coarsest) + 1]
    precision = next(name for name in reversed(allowed) if name in offered)
    return Choice(chosen, precision)


def _first_choice(device: torch.device, is_weighted: bool) -> str:
    for backend in ("triton", "native"):
        if _is_for(backend, device) and (not is_weighted or _weighs(backend, device)):
            return backend
    return "reference"


def _is_for(backend: str, device: torch.device) -> bool:
    """Whether "auto" may take a compiled backend on a device; never Triton on the CPU, where it is interpreted."""
    if backend == "native":
        return device.type in ("cpu", "cuda") and native_library.is_available(device.type)
    is_triton_device = device.type != "cpu" and device.type in triton_availability.device_types()
    return is_triton_device and not triton_availability.device_problem(device)


def _weighs(backend: str, device: torch.device) -> bool:
    return "any" in WEIGHING[backend] or device.type in WEIGHING[backend]


def _quicker(op: str, direction: str, precision: str | None, features: Tensor, prototypes: Tensor) -> str | None:
    """The measured choice for a call that both triton and native can run; None if there is no measurement."""
    if not fastest.rows() or features.dtype == torch.float64 or not native_library.is_available("cuda"):
        return None
    height, width = prototypes.shape[2:] if prototypes.dim() == 4 else (1, 1)
    positions = (features.shape[2] - height + 1) * (features.shape[3] - width + 1)
    depth, number = features.shape[1] * height * width, prototypes.shape[0]
    searched = precision or _natural_precision(features.device, features.dtype)
    arch = device_limits(features.device).arch
    return fastest.quicker(op, direction, arch, searched, depth, positions, number)


def precisions(backend: str, device_type: str) -> tuple[str, ...]:
    """The precisions of PRECISIONS in which a backend that runs here searches on such a device; always with "fp32"."""
    if backend == "native":
        return native_library.precisions(device_type)
    if backend == "triton":
        # The interpreter multiplies bfloat16 numbers wrongly, and computes TF32 in float32.
        return PRECISIONS if device_type == "cuda" else ("fp32", "tf32")
    return ("fp32",)


def _natural_precision(device: torch.device, dtype: torch.dtype) -> str:
    if dtype == torch.float64:
        return "fp32"
    # The products of bfloat16 and of float16 values are exact in these.
    if dtype in (torch.bfloat16, torch.float16):
        return "bf16" if dtype == torch.bfloat16 else "tf32"
    try:
        return {"highest": "fp32", "high": "tf32", "medium": "bf16"}[torch.get_float32_matmul_precision()]
    except RuntimeError:
        # Raised if the user set the precision of only one backend of torch.
        backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
        return backend.matmul.fp32_precision if backend.matmul.fp32_precision in ("tf32", "bf16") else "fp32"


def _require(backend: str, device: torch.device) -> None:
    status = _status(backend)
    if not status.available:
        raise BackendUnavailableError(f"backend {backend!r}: {status.reason}")
    if backend == "native" and device.type == "cuda":
        native_library.load("cuda")
    elif "any" not in status.devices and device.type not in status.devices:
        raise BackendUnavailableError(
            f"backend {backend!r}: runs on {', '.join(status.devices)} only; the tensors are on {device.type}. "
            "Move them, or use backend='auto'."
        )
    if backend == "triton":
        problem = triton_availability.device_problem(device)
        if problem:
            raise BackendUnavailableError(f"backend 'triton': {problem}")


def _status(backend: str) -> BackendStatus:
    if backend == "reference":
        return BackendStatus(True, ("any",), "")
    if backend == "triton":
        reason = triton_availability.unavailable_reason()
        return BackendStatus(not reason, triton_availability.device_types(), reason)
    try:
        native_library.load()
    except BackendUnavailableError as error:
        return BackendStatus(False, ("cpu",), str(error).removeprefix("backend 'native': "))
    return BackendStatus(True, ("cpu", "cuda") if native_library.is_available("cuda") else ("cpu",), "")
