"""Who computes an op: our backends, the peers, the lines; each with the precision it multiplies in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.ops.cases import Inputs
from benchmarks.ops.libraries import LIBRARIES, MissingPeerError
from benchmarks.ops.ops import Op
from benchmarks.ops.peers import LINES, NEAREST_ONLY, TORCH_PEERS, Compute, matmul
from protokern.kernels.backends import choose_backend

MODES = ("fwd", "full")
PRECISIONS = ("fp32", "tf32", "bf16")
COMPILED = "compile"
ALL_PEERS = (*TORCH_PEERS, COMPILED, *LIBRARIES, *LINES)

# The precisions of a torch peer on a device; None stands for every other peer. On the CPU float32 products are float32;
# on CUDA the original's convolutions use TF32 unless set otherwise.
_TORCH_PRECISIONS = {
    "cpu": {"matmul": ("fp32", "bf16"), "mm": ("fp32", "bf16"), None: ("fp32",)},
    "cuda": {
        "original": ("tf32", "fp32"),
        "cdist": ("fp32",),
        "chunked": ("fp32", "tf32"),
        COMPILED: ("tf32", "bf16"),
        None: PRECISIONS,
    },
}


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One way to compute an op.

    Attributes:
        kind: "ours", a "peer", or a "line" that computes less than the op.
        bind: takes inputs and an activation, returns the call to time.
        gives: what the call returns: "value" (B, P), "patch" (B, P) int64, or "product" for a line.
        pool: whose threads it uses.
        capturable: whether a CUDA graph can hold it.
        compiles: whether the first call takes seconds.
    """

    name: str
    precision: str
    kind: Literal["ours", "peer", "line"]
    bind: Callable[[Inputs, str], Callable[[], Tensor]]
    gives: Literal["value", "patch", "product"] = "value"
    pool: str = "torch"
    capturable: bool = True
    compiles: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} {self.precision}"


@dataclass(frozen=True)
class Missing:
    """What was asked for and is not measured, and why."""

    what: str
    reason: str


def set_torch_flags(precision: str) -> None:
    """How torch multiplies float32 while a provider of that precision runs."""
    exact = precision == "fp32"
    torch.backends.cudnn.allow_tf32 = not exact
    torch.set_float32_matmul_precision("highest" if exact else "high")


def describe_flags(precision: str) -> str:
    return f"cudnn.allow_tf32={precision != 'fp32'} matmul={'highest' if precision == 'fp32' else 'high'}"


def forward_only(compute: Compute, inputs: Inputs) -> Callable[[], Tensor]:
    def step() -> Tensor:
        with torch.no_grad():
            return compute(inputs.features, inputs.prototypes)

    return step


def forward_backward(compute: Compute, inputs: Inputs) -> Callable[[], Tensor]:
    """One training step's worth: the value and both gradients."""

    def step() -> Tensor:
        value = compute(inputs.features, inputs.prototypes)
        torch.autograd.grad(value, (inputs.features, inputs.prototypes), inputs.grad)
        return value

    return step


def bind_compute(
    compute: Callable[[Tensor, Tensor, str], Tensor], mode: str
) -> Callable[[Inputs, str], Callable[[], Tensor]]:
    wrap = forward_only if mode == "fwd" else forward_backward

    def bind(inputs: Inputs, activation: str) -> Callable[[], Tensor]:
        return wrap(lambda features, prototypes: compute(features, prototypes, activation), inputs)

    return bind


def our_provider(op: Op, mode: str, backend: str, precision: str) -> Provider:
    def compute(features: Tensor, prototypes: Tensor, activation: str) -> Tensor:
        return op.ours(features, prototypes, backend, precision, activation)

    def bind(inputs: Inputs, activation: str) -> Callable[[], Tensor]:
        require_precision(backend, precision, inputs.features)
        return bind_compute(compute, mode)(inputs, activation)

    return Provider(name=backend, precision=precision, kind="ours", bind=bind)


def require_precision(backend: str, precision: str, features: Tensor) -> None:
    """Raise a ValueError where a backend would search more precisely than its row says."""
    taken = choose_backend(backend, features.device, features.dtype, precision).precision
    if taken != precision:
        raise ValueError(f"precision: must be one that {backend} has on {features.device.type}; got {precision!r}.")


def torch_provider(op: Op, mode: str, name: str, precision: str, device: str) -> Provider:
    peer = matmul if name == COMPILED else TORCH_PEERS[name]

    def compute(features: Tensor, prototypes: Tensor, activation: str) -> Tensor:
        return peer(features, prototypes, op, activation)

    call = in_bfloat16(compute) if precision == "bf16" else compute
    if name == COMPILED:
        call = compiled(call, device)
    return Provider(
        name=name, precision=precision, kind="peer", bind=bind_compute(call, mode), compiles=name == COMPILED
    )


def in_bfloat16(compute: Callable[[Tensor, Tensor, str], Tensor]) -> Callable[..., Tensor]:
    """The peer as mixed-precision training runs it."""

    def call(features: Tensor, prototypes: Tensor, activation: str) -> Tensor:
        with torch.autocast(features.device.type, dtype=torch.bfloat16):
            return compute(features, prototypes, activation).float()

    return call


def compiled(call: Callable[..., Tensor], device: str) -> Callable[..., Tensor]:
    """`torch.compile` at its best. On CUDA without its own graphs: every provider's graph is made the same way here."""
    mode = "max-autotune" if device == "cpu" else "max-autotune-no-cudagraphs"
    return torch.compile(call, mode=mode, dynamic=False, fullgraph=True)


def library_provider(op: Op, name: str, precision: str) -> Provider:
    library = LIBRARIES[name]

    def bind(inputs: Inputs, activation: str) -> Callable[[], Tensor]:
        search = library.prepare(inputs.features, inputs.prototypes)
        if library.gives == "patch" or op.of_smallest is None:
            return search
        finish = op.of_smallest
        return lambda: finish(search(), activation)

    return Provider(
        name=name,
        precision=precision,
        kind="peer",
        bind=bind,
        gives="patch" if library.gives == "patch" else "value",
        pool=library.pool,
        capturable=False,
        compiles=name == "pykeops",
    )


def line_provider(name: str, precision: str) -> Provider:
    def bind(inputs: Inputs, activation: str) -> Callable[[], Tensor]:
        return LINES[name](inputs.features, inputs.prototypes, precision)

    return Provider(name=name, precision=precision, kind="line", bind=bind, gives="product")


def build_providers(
    op: Op, mode: str, device: str, backends: Sequence[str], peers: Sequence[str], precisions: Sequence[str]
) -> tuple[list[Provider], list[Missing]]:
    """All providers that can compute `op` in `mode`, and those asked for that cannot."""
    found = [our_provider(op, mode, backend, precision) for backend in backends for precision in precisions]
    missing: list[Missing] = []
    for name in peers:
        reason = unsuited(op, mode, name)
        if reason:
            missing.append(Missing(f"{name}, {op.name} {mode}", reason))
            continue
        for precision in offered(name, device):
            if precision not in precisions:
                continue
            if name in LIBRARIES:
                found.append(library_provider(op, name, precision))
            elif name in LINES:
                found.append(line_provider(name, precision))
            else:
                found.append(torch_provider(op, mode, name, precision, device))
    return found, missing


def offered(name: str, device: str) -> tuple[str, ...]:
    """The precisions in which a peer can be asked to multiply."""
    if name in LIBRARIES:
        library = LIBRARIES[name]
        return library.cpu_precisions if device == "cpu" else library.cuda_precisions
    by_name = _TORCH_PRECISIONS[device]
    return by_name.get(name, by_name[None])


def unsuited(op: Op, mode: str, name: str) -> str:
    """Why a peer has nothing to compare here; empty if it has."""
    if op.of_smallest is None and (name in LIBRARIES or name in NEAREST_ONLY):
        return "finds the nearest patch only"
    if name in LIBRARIES and LIBRARIES[name].gives == "patch" and op.name != "min_distance":
        return "says which patch is nearest, not how far it is"
    if mode == "full" and name in (*LIBRARIES, *LINES):
        return "has no backward pass"
    return ""


def make_call(provider: Provider, inputs: Inputs, activation: str = "log") -> Callable[[], Tensor]:
    """The provider's call on `inputs`, run once.

    Raises:
        MissingPeerError: it cannot run here.
    """
    set_torch_flags(provider.precision)
    try:
        call = provider.bind(inputs, activation)
        call()
    except MissingPeerError:
        raise
    # A peer's compiler, a driver or our own refusal of a precision: in any case, the run reports it and continues.
    except Exception as error:
        raise MissingPeerError(f"{type(error).__name__}: {first_line(error)}") from error
    return call


def first_line(error: BaseException) -> str:
    lines: list[Any] = str(error).strip().splitlines() or ["no message"]
    return str(lines[0])[:300]
