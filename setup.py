"""Builds the C++ libraries with CMake and Ninja; everything else about the package is in pyproject.toml.

PROTOKERN_BUILD says what to build: `auto` (default: what this machine can build; says what it left out and why),
`cpu` (fail where the CPU library cannot be built), `cuda` (CPU and CUDA libraries), `none`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_tools"))
from torch_package import find_torch  # noqa: E402  (found only once the folder is on the path)

CHOICES = ("auto", "cpu", "cuda", "none")


class LeftOut(Exception):
    """Why a library cannot be built here, and what to do about it."""


def build_choice() -> str:
    choice = os.environ.get("PROTOKERN_BUILD", "auto")
    if choice not in CHOICES:
        raise SystemExit(f"PROTOKERN_BUILD: must be one of {', '.join(CHOICES)}; got '{choice}'.")
    if choice == "cuda":
        raise SystemExit("PROTOKERN_BUILD=cuda: this version has no CUDA library yet. Use auto, cpu or none.")
    return choice


def torch_package() -> Path:
    package = find_torch()
    if package is None:
        raise LeftOut(
            "torch is not installed in this environment, and its headers are needed to build. "
            "Run 'pip install torch' first, then install protokern again."
        )
    return package


def tool(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise LeftOut(f"{name} was not found. Run 'pip install {name}', then install protokern again.")
    return found


def run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        raise LeftOut(
            f"'{' '.join(command[:3])} ...' failed with exit code {error.returncode}; its messages are above. "
            "A C++20 compiler is needed (GCC 11 or newer)."
        ) from error


class CMakeBuild(build_ext):
    """Runs CMake once for all libraries and puts them beside the Python files."""

    def run(self) -> None:
        target = ROOT / "protokern" if self.inplace else Path(self.build_lib) / "protokern"
        try:
            self.build_libraries(target)
        except LeftOut as reason:
            if build_choice() != "auto":
                raise SystemExit(f"protokern: the C++ library cannot be built: {reason}") from reason
            self.warn(
                f"\n\n  protokern is installed WITHOUT its C++ library: {reason}\n"
                "  It works all the same, slower, in pure torch. 'protokern doctor' repeats this.\n"
            )

    def build_libraries(self, target: Path) -> None:
        import pybind11

        build = Path(self.build_temp) / "cmake"
        configure = [
            *(tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DPROTOKERN_TORCH={torch_package()}",
            *(
                "-DPROTOKERN_HOST=ON",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            ),
        ]
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        run(configure)
        run([tool("cmake"), "--build", str(build), "--parallel", jobs])
        run([tool("cmake"), "--install", str(build), "--prefix", str(target.resolve()), "--strip"])

    def get_outputs(self) -> list[str]:
        target = Path(self.build_lib) / "protokern"
        return [str(path) for path in [*target.glob("lib/*.so"), *target.glob("_host*.so")]]


class AnyPythonWheel(bdist_wheel):
    """The ops library holds no Python, so one wheel serves every Python 3; without it, every platform too."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = build_choice() == "none"

    def get_tag(self) -> tuple[str, str, str]:
        platform = super().get_tag()[2]
        return "py3", "none", platform


setup(
    ext_modules=[] if build_choice() == "none" else [Extension("protokern._host", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel},
)
