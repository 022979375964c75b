"""Where the torch is that the C++ ops are built against. Used by setup.py and by the build backend; needs no torch."""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

MARK = Path("include", "torch", "csrc", "stable", "library.h")


def find_torch() -> Path | None:
    """Torch's folder in this interpreter, or in the environment that an isolated build installs into.

    pip's isolated builds hide the packages of the environment but run its interpreter, so its paths still lead there.
    """
    folders = [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))]
    spec = find_spec("torch")
    if spec is not None and spec.submodule_search_locations:
        folders.insert(0, Path(next(iter(spec.submodule_search_locations))).parent)
    if "VIRTUAL_ENV" in os.environ:
        folders += Path(os.environ["VIRTUAL_ENV"]).glob("lib/python3*/site-packages")
    return next((folder / "torch" for folder in folders if (folder / "torch" / MARK).is_file()), None)


def has_compiler() -> bool:
    """Whether a C++ compiler is on this machine."""
    return any(shutil.which(name) for name in ((os.environ.get("CXX") or "c++").split()[0], "g++", "clang++"))
