"""Finds and loads the C++ library that registers the `protokern_native` ops, and tells how it was built.

The library holds no Python and one build serves every torch from 2.11 on. The facts come from a small module of its
own, `protokern._host`, which fits one Python version only; the ops run without it.
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
_REBUILD = "Run 'pip install -e .' in the source tree, or install protokern again (needs a C++20 compiler)."


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """Facts about the C++ library.

    Attributes:
        library: the file, or None where it was not built.
        instruction_set: the one in use; None where the library does not load or PROTOKERN_ISA cannot be met.
        compiled: instruction sets in the build, fastest first; empty without the module `protokern._host`.
        supported: those that this processor has too.
        override: the value of PROTOKERN_ISA, or None.
        compiler: name and version; None without the module.
        problem: what is wrong and what to do; empty when nothing is.
    """

    library: Path | None
    instruction_set: str | None
    compiled: tuple[str, ...]
    supported: tuple[str, ...]
    override: str | None
    compiler: str | None
    problem: str


def load() -> None:
    """Load the library once; cheap when called again.

    Raises:
        BackendUnavailableError: it was not built, does not load, or PROTOKERN_ISA names what cannot run here.
    """
    problem = _load_library() or _isa_problem()
    if problem:
        raise BackendUnavailableError(f"backend 'native': {problem}")


def is_available() -> bool:
    """Whether the library is there and loads. A PROTOKERN_ISA that cannot be met still lets `load` fail, aloud."""
    return not _load_library()


def precisions(device_type: str) -> tuple[str, ...]:
    """In which precisions the library searches on a device; see PRECISIONS in backends.py."""
    return ("fp32",)


def unavailable_reason() -> str:
    """Why the ops cannot run and what to do; empty when they can."""
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
def _isa_problem() -> str:
    try:
        torch.ops.protokern_native.instruction_set()
    except RuntimeError as error:
        return str(error)
    return ""
