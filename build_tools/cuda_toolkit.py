"""Whether the CUDA library can be built here, and for which processors. Asks for tools, never for a graphics card."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"


def find_nvcc() -> str | None:
    """CUDA's compiler: that of CUDA_HOME, or the one on the path."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return shutil.which("nvcc", path=str(Path(home) / "bin"))
    return shutil.which("nvcc")


def cuda_problem(torch: Path) -> str:
    """Why the CUDA library cannot be built against this torch package and what to do; empty when it can."""
    if not (torch / "lib" / "libtorch_cuda.so").is_file():
        return f"the torch in {torch} is built without CUDA. Install a torch with CUDA, then install protokern again."
    if find_nvcc() is None:
        return "nvcc was not found. Put it on the path or set CUDA_HOME, then install protokern again."
    return ""


def cmake_architectures() -> str:
    """CMake's form of TORCH_CUDA_ARCH_LIST: machine code for every entry, portable code too where it says +PTX."""
    text = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES
    entries = []
    for name in re.split(r"[;, ]+", text.strip("; ,")):
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", name)
        if match is None or int(match[1] + match[2][0]) < 75:
            raise SystemExit(
                f"TORCH_CUDA_ARCH_LIST: must be a list of numbers from 7.5 on, such as '{DEFAULT_ARCHITECTURES}'; "
                f"got '{text}'."
            )
        number = match[1] + match[2]
        entries += [f"{number}-real", f"{number}-virtual"] if match[3] else [f"{number}-real"]
    return ";".join(entries)
