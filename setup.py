"""Builds the C++ libraries with CMake and Ninja; everything else about the package is in pyproject.toml.

PROTOKERN_BUILD says what to build: `auto` (default: what this machine can build; says what it left out and why),
`cpu` (the CPU library; fail where it cannot be built), `cuda` (CPU and CUDA libraries; fail likewise), `none`.
The CUDA library needs nvcc (CUDA_HOME, or on the path) and a torch that is built for CUDA, never a graphics card. It is
compiled for TORCH_CUDA_ARCH_LIST, by default "8.0;9.0+PTX": Ampere and Hopper, and what comes later.
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
from cuda_toolkit import cmake_architectures, cuda_problem, find_nvcc  # noqa: E402
from torch_package import find_torch, has_compiler  # noqa: E402  (found only once the folder is on the path)

CHOICES = ("auto", "cpu", "cuda", "none")
COMPILERS = "GCC 11 or newer"


class LeftOut(Exception):
    """Why a library cannot be built here, and what to do about it."""


def build_choice() -> str:
    choice = os.environ.get("PROTOKERN_BUILD", "auto")
    if choice not in CHOICES:
        raise SystemExit(f"PROTOKERN_BUILD: must be one of {', '.join(CHOICES)}; got '{choice}'.")
    return choice


def torch_package() -> Path:
    if not has_compiler():
        raise LeftOut(f"no C++ compiler was found. Install {COMPILERS}, then install protokern again.")
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
            f"A C++20 compiler is needed ({COMPILERS})."
        ) from error
    except OSError as error:
        raise LeftOut(f"{command[0]} does not run ({error}). Install it, then install protokern again.") from error


def pybind11_folder() -> str:
    try:
        import pybind11
    except ImportError as error:
        raise LeftOut("pybind11 was not found. Run 'pip install pybind11', then install protokern again.") from error
    return pybind11.get_cmake_dir()


class CMakeBuild(build_ext):
    """Runs CMake once for all libraries and puts them beside the Python files."""

    def run(self) -> None:
        target = ROOT / "protokern" if self.inplace else Path(self.build_lib) / "protokern"
        choice = build_choice()
        try:
            torch = torch_package()
            without_cuda = "" if choice == "cpu" else cuda_problem(torch)
            if choice == "cuda" and without_cuda:
                raise LeftOut(without_cuda)
            without_cuda = self.build_what_can_be(target, torch, choice, without_cuda)
        except LeftOut as reason:
            if choice != "auto":
                raise SystemExit(f"protokern: the C++ library cannot be built: {reason}") from reason
            self.warn(
                f"protokern is installed WITHOUT its C++ library: {reason} "
                "It works all the same, slower, in pure torch; 'protokern doctor' says so, too."
            )
        else:
            if without_cuda:
                self.warn(f"protokern is installed without its CUDA library: {without_cuda}")

    def build_what_can_be(self, target: Path, torch: Path, choice: str, without_cuda: str) -> str:
        """Build the libraries; why there is none for CUDA, which takes no other away, or empty where there is one."""
        if choice == "auto" and not without_cuda:
            try:
                self.build_libraries(target, torch, cuda=True)
            except LeftOut as reason:
                shutil.rmtree(Path(self.build_temp) / "cmake", ignore_errors=True)
                without_cuda = str(reason)
            else:
                return ""
        self.build_libraries(target, torch, cuda=choice == "cuda")
        return without_cuda

    def build_libraries(self, target: Path, torch: Path, cuda: bool) -> None:
        build = Path(self.build_temp) / "cmake"
        configure = [
            *(tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DPROTOKERN_TORCH={torch}",
            f"-DPROTOKERN_CUDA={'ON' if cuda else 'OFF'}",
            *(
                "-DPROTOKERN_HOST=ON",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11_folder()}",
            ),
        ]
        if cuda:
            configure += [f"-DCMAKE_CUDA_COMPILER={find_nvcc()}", f"-DCMAKE_CUDA_ARCHITECTURES={cmake_architectures()}"]
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
