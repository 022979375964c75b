"""Finds and loads the C++ libraries that register the `protokern_native` ops, and says how they were built.

The CPU library defines the ops; the CUDA library adds the implementations for CUDA devices and is loaded after it. Both
are independent of Python, and one build works with every torch from 2.11 on. Facts about the build come from the small
module `protokern._host`, which works with one Python version only; the ops run without it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import torch

from ..errors import BackendUnavailableError

LIBRARY = Path(__file__).resolve().parents[1] / "lib" / "libprotokern_cpu.so"
CUDA_LIBRARY = LIBRARY.with_name("libprotokern_cuda.so")
_REBUILD = "Run 'pip install -e .' in the source tree, or install protokern again (needs a C++20 compiler)."
_REBUILD_CUDA = (
    "Run 'PROTOKERN_BUILD=cuda pip install -e .' in the source tree (needs nvcc and a torch that is built for CUDA)."
)


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """Facts about the C++ library.

    Attributes:
        library: the file, or None if it was not built.
        instruction_set: the one in use; None if the library does not load or this machine lacks what PROTOKERN_ISA
            names.
        compiled: instruction sets in the build, fastest first; empty without the module `protokern._host`.
        supported: those of `compiled` that this processor has.
        override: the value of PROTOKERN_ISA, or None.
        compiler: name and version; None without the module.
        problem: what is wrong and what to do; empty if all is well.
        cuda_library: the file of the CUDA library, or None if it was not built.
        cuda_problem: why native ops do not run on CUDA devices and what to do; empty when the library loads.
    """

    library: Path | None
    instruction_set: str | None
    compiled: tuple[str, ...]
    supported: tuple[str, ...]
    override: str | None
    compiler: str | None
    problem: str
    cuda_library: Path | None
    cuda_problem: str


def load(device_type: str = "cpu") -> None:
    """Load the library for "cpu" or "cuda" tensors once; cheap when called again.

    Raises:
        BackendUnavailableError: the library was not built or does not load, or PROTOKERN_ISA names an instruction set
            that cannot run here.
    """
    problem = unavailable_reason(device_type)
    if problem:
        raise BackendUnavailableError(f"backend 'native': {problem}")


def is_available(device_type: str = "cpu") -> bool:
    """Whether the library exists and loads. `load` may still raise an error for the value of PROTOKERN_ISA."""
    return not (_load_cuda_library() if device_type == "cuda" else _load_library())


def precisions(device_type: str) -> tuple[str, ...]:
    """The precisions in which the library searches on a device; see PRECISIONS in backends.py.

    On the CPU they depend on the instruction set; if it is unknown, the next call of an op raises the error.
    """
    if device_type == "cuda":
        return ("fp32", "tf32", "bf16")
    return ("fp32", "bf16") if _cpu_searches_bfloat16() else ("fp32",)


def unavailable_reason(device_type: str = "cpu") -> str:
    """Why the ops cannot run on "cpu" or "cuda" tensors and what to do; empty if they can."""
    if device_type == "cuda":
        return _load_cuda_library()
    return _load_library() or _isa_problem()


def build_info() -> BuildInfo:
    """What is built and in use, for `protokern doctor`; never raises."""
    problem = unavailable_reason()
    try:
        host = import_module("protokern._host")
    except ImportError as error:
        host = None
        if not problem:
            problem = f"the module protokern._host does not load ({error}); the ops run without it. {_REBUILD}"
    return BuildInfo(
        library=LIBRARY if LIBRARY.is_file() else None,
        instruction_set=None if unavailable_reason() else torch.ops.protokern_native.instruction_set(),
        compiled=tuple(host.compiled_instruction_sets()) if host else (),
        supported=tuple(host.supported_instruction_sets()) if host else (),
        override=os.environ.get("PROTOKERN_ISA") or None,
        compiler=host.compiler() if host else None,
        problem=problem,
        cuda_library=CUDA_LIBRARY if CUDA_LIBRARY.is_file() else None,
        cuda_problem=_load_cuda_library(),
    )


@cache
def _load_library() -> str:
    if not LIBRARY.is_file():
        return f"the C++ library is not built. {_REBUILD}"
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        cause = error.__cause__ or error
        return f"the C++ library does not load with torch {torch.__version__} ({cause}). {_REBUILD}"
    return ""


@cache
def _load_cuda_library() -> str:
    if _load_library():
        return _load_library()  # which defines the ops
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA. Install a torch with CUDA and build again."
    if not CUDA_LIBRARY.is_file():
        return f"the CUDA library is not built. {_REBUILD_CUDA}"
    try:
        torch.ops.load_library(str(CUDA_LIBRARY))
    except OSError as error:
        cause = error.__cause__ or error
        return f"the CUDA library does not load with torch {torch.__version__} ({cause}). {_REBUILD_CUDA}"
    return ""


@cache
def _cpu_searches_bfloat16() -> bool:
    return not unavailable_reason() and bool(torch.ops.protokern_native.searches_bfloat16())


@cache
def _isa_problem() -> str:
    try:
        torch.ops.protokern_native.instruction_set()
    except RuntimeError as error:
        return str(error)
    return ""
