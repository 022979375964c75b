"""What a build asks for, refuses and packs. Wheels themselves are built by hand and by CI, for that takes minutes."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
setuptools = pytest.importorskip("setuptools", minversion="77", reason="the build backend needs setuptools")


def setup(*arguments: str, build: str = "none") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PROTOKERN_BUILD": build}
    command = [sys.executable, "setup.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "build_tools"))
    monkeypatch.delenv("PROTOKERN_BUILD", raising=False)
    monkeypatch.chdir(ROOT)
    return __import__("backend")


def test_the_build_uses_the_torch_of_the_environment(backend: ModuleType) -> None:
    assert backend.find_torch() == Path(torch.__file__).parent


@pytest.mark.parametrize("hook", ["get_requires_for_build_wheel", "get_requires_for_build_editable"])
def test_torch_is_asked_for_only_where_it_is_missing(
    backend: ModuleType, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "has_compiler", lambda: True)
    monkeypatch.setattr(backend.build_meta, hook, lambda settings: [])
    requires = getattr(backend, hook)
    assert requires() == []
    monkeypatch.setattr(backend, "find_torch", lambda: None)
    assert requires() == ["torch>=2.11"]
    monkeypatch.setattr(backend, "has_compiler", lambda: False)
    assert requires() == []
    monkeypatch.setattr(backend, "has_compiler", lambda: True)
    monkeypatch.setenv("PROTOKERN_BUILD", "none")
    assert requires() == []


def test_a_build_that_cannot_be_is_refused() -> None:
    result = setup("--version", build="fast")
    assert result.returncode == 1
    assert result.stderr.strip() == "PROTOKERN_BUILD: must be one of auto, cpu, cuda, none; got 'fast'."


@pytest.fixture
def cuda_toolkit(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    return __import__("cuda_toolkit")


def test_the_cuda_library_is_decided_by_tools_not_by_a_device(
    cuda_toolkit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cuda_toolkit.cuda_problem(tmp_path).startswith(f"the torch in {tmp_path} is built without CUDA. Install")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda_toolkit.cuda_problem(tmp_path).startswith("nvcc was not found. Put it on the path or set CUDA_HOME")
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.touch(mode=0o755)
    assert cuda_toolkit.cuda_problem(tmp_path) == ""
    assert cuda_toolkit.find_nvcc() == str(nvcc)


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        (None, "80-real;90-real;90-virtual"),
        ("7.5", "75-real"),
        ("9.0a; 10.0+PTX", "90a-real;100-real;100-virtual"),
        ("8.0 8.6", "80-real;86-real"),
    ],
)
def test_architectures_are_explicit(
    named: str | None, wanted: str, cuda_toolkit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named is not None:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", named)
    assert cuda_toolkit.cmake_architectures() == wanted


@pytest.mark.parametrize("named", ["Hopper", "7.0", "90"])
def test_unknown_architectures_are_refused(
    named: str, cuda_toolkit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", named)
    with pytest.raises(SystemExit, match=r"^TORCH_CUDA_ARCH_LIST: must be a list of numbers from 7\.5 on"):
        cuda_toolkit.cmake_architectures()


def test_the_source_distribution_holds_what_a_build_needs(tmp_path: Path) -> None:
    result = setup("-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("protokern-*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.split("/", 1)[1] for name in files.getnames() if "/" in name}
    needed = {"CMakeLists.txt", "LICENSE", "pyproject.toml", "setup.py", "build_tools/backend.py"}
    for folder in ("csrc", "build_tools", "protokern"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".cpp", ".h", ".cu", ".cuh", ".txt", ".j2", ".css", ".js", ".toml"}:
                needed.add(path.relative_to(ROOT).as_posix())
    assert needed <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_an_installed_package_holds_the_files_that_are_no_programs(tmp_path: Path) -> None:
    result = setup("-q", "egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "lib"))
    assert result.returncode == 0, result.stderr
    built = {path.relative_to(tmp_path / "lib").as_posix() for path in (tmp_path / "lib").rglob("*")}
    data = {path for path in (ROOT / "protokern").rglob("*") if path.suffix in {".toml", ".j2", ".css", ".js", ".csv"}}
    assert {path.relative_to(ROOT).as_posix() for path in data} <= built
    assert {f"protokern/recipes/{name}.toml" for name in ("quick", "fine", "paper")} <= built


@pytest.fixture
def setup_program(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of setup.py, and under "given" what it hands to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return {**runpy.run_path(str(ROOT / "setup.py")), "given": given}


def test_a_broken_cuda_takes_only_its_own_library_away(setup_program: dict[str, Any], tmp_path: Path) -> None:
    names, given = setup_program, setup_program["given"]
    tried = []

    def build_libraries(target: Path, torch: Path, cuda: bool) -> None:
        tried.append(cuda)
        if cuda:
            raise names["LeftOut"]("nvcc is too old")

    command = SimpleNamespace(build_temp=str(tmp_path), build_libraries=build_libraries)
    build = given["cmdclass"]["build_ext"].build_what_can_be
    assert build(command, tmp_path, tmp_path, "auto", "") == "nvcc is too old"
    assert tried == [True, False]
    assert build(command, tmp_path, tmp_path, "auto", "no nvcc") == "no nvcc"
    assert tried == [True, False, False]
    with pytest.raises(names["LeftOut"], match="nvcc is too old"):
        build(command, tmp_path, tmp_path, "cuda", "")


@pytest.fixture
def release(backend: ModuleType) -> ModuleType:
    return __import__("release")


def make_command(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_a_release_is_tried_with_the_pythons_that_run(
    release: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_command(tmp_path / "python3.11", "echo 3.11.9 /opt/my python/bin/python3.11")
    make_command(tmp_path / "python3.13", "echo no such version >&2; exit 127")  # as a shim without its version
    named = make_command(tmp_path / "pypy", "echo 3.12.4 /opt/pypy")
    monkeypatch.setenv("PATH", str(tmp_path))
    found, missing = release.choose_interpreters([])
    assert [(one.version, one.command) for one in found] == [("3.11.9", "/opt/my python/bin/python3.11")]
    assert missing == ["3.12", "3.13", "3.14"]
    found, missing = release.choose_interpreters([named, "3.11"])
    assert [one.version for one in found] == ["3.12.4", "3.11.9"]
    assert missing == []
    with pytest.raises(SystemExit, match=r"^PYTHONS: must be versions on the PATH or paths .*; got '3\.13', which"):
        release.choose_interpreters(["3.11", "3.13"])
    (tmp_path / "python3.11").unlink()
    with pytest.raises(SystemExit, match=r"^PYTHONS: .*; got '3\.11', which does not run\. Install it"):
        release.choose_interpreters([])


@pytest.mark.parametrize(
    ("file", "facts", "problem"),
    [
        ("py3-none-manylinux_2_34_x86_64", {}, ""),
        ("cp311-cp311-manylinux_2_34_x86_64", {}, "the wheel is for cp311-cp311, not for every Python 3"),
        (
            "py3-none-manylinux_2_28_x86_64",
            {},
            "the wheel is tagged manylinux_2_28_x86_64, but its symbols need manylinux_2_34_x86_64",
        ),
        (
            "py3-none-linux_x86_64",
            {},
            "the wheel is tagged linux_x86_64, but its symbols need manylinux_2_34_x86_64",
        ),
        (
            "py3-none-manylinux_2_34_x86_64",
            {"external_libs": {"libtorch_cpu.so": None, "libgomp.so.1": "/usr/lib/libgomp.so.1"}},
            "the wheel needs libgomp.so.1, which neither manylinux_2_34_x86_64 nor torch has",
        ),
        (
            "py3-none-manylinux_2_34_x86_64",
            {"unsupported_isa": True},
            "the wheel's libraries need a newer processor than the tag says",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tag_is_one_that_auditwheel_confirms(
    release: ModuleType, file: str, facts: dict[str, Any], problem: str
) -> None:
    audit = {
        "sym_tag": "manylinux_2_34_x86_64",
        "external_libs": {"libtorch_cpu.so": None, "libtorch_cuda.so": None, "libc10.so": None},
        "unsupported_isa": False,
    }
    assert release.problem_of_audit(f"protokern-0.1.0-{file}.whl", audit | facts) == problem


def test_a_wheel_holds_the_library_and_no_sources(release: ModuleType) -> None:
    names = [
        "protokern/__init__.py",
        "protokern/lib/libprotokern_cpu.so",
        "protokern/recipes/quick.toml",
        "protokern/report/templates/report.js",
        "protokern-0.1.0.dist-info/licenses/LICENSE",
    ]
    assert release.problem_of_contents(names) == ""
    assert release.problem_of_contents([*names, "tests/test_push.py"]) == (
        "the wheel has tests/test_push.py, which is no part of the package"
    )
    for missing in names[1:]:
        problem = release.problem_of_contents([name for name in names if name != missing])
        assert problem.removeprefix("the wheel lacks ").replace("*", "0.1.0") == missing


def test_a_release_builds_what_can_be_built_and_never_perhaps(
    release: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "cuda_problem", lambda torch: "nvcc was not found.")
    assert release.build_choice() == "cpu"
    monkeypatch.setattr(release, "cuda_problem", lambda torch: "")
    assert release.build_choice() == "cuda"
    monkeypatch.setenv("PROTOKERN_BUILD", "cpu")
    assert release.build_choice() == "cpu"


def test_an_environment_of_a_release_has_no_compiler_and_is_removed(
    release: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The interpreter is a stand-in that makes an environment whose python prints what it is asked and its compiler."""
    python = make_command(tmp_path / "inside", 'echo "$CC $CXX: $*"; case "$*" in *smoke*) exit 3;; esac')
    make_environment = make_command(tmp_path / "python3", f'mkdir -p "$4/bin" && ln -s {python} "$4/bin/python"')
    monkeypatch.setattr(release, "WORK", tmp_path / "work")
    interpreter = release.Interpreter(make_environment, "3.12.1")
    with pytest.raises(SystemExit, match="3"):
        release.try_wheel(tmp_path / "protokern.whl", interpreter, ["torch==2.11.0", "torchvision"])
    lines = capfd.readouterr().out.splitlines()
    assert [line.partition(" ...")[0] for line in lines[:4]] == [
        "release: Python 3.12.1: environment",
        "release: Python 3.12.1: torch==2.11.0 torchvision",
        "release: Python 3.12.1: protokern.whl",
        "release: Python 3.12.1: smoke program",
    ]
    assert lines[4:] == [f"false false: -I {ROOT / 'build_tools' / 'smoke.py'}"]
    assert not (tmp_path / "work" / "python-3.12.1").exists()


def test_what_cannot_be_built_is_left_out_in_one_line(
    setup_program: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A compiler that refuses everything, as one without C++20 does; CMake itself is asked."""
    pytest.importorskip("cmake", reason="the build needs cmake")
    pytest.importorskip("ninja", reason="the build needs ninja")
    monkeypatch.setenv("CXX", make_command(tmp_path / "c++", "exit 1"))
    said: list[str] = []
    builder = setup_program["given"]["cmdclass"]["build_ext"]
    command = SimpleNamespace(inplace=False, build_lib=str(tmp_path), build_temp=str(tmp_path), warn=said.append)
    for name in ("build_what_can_be", "build_libraries"):
        setattr(command, name, getattr(builder, name).__get__(command))
    monkeypatch.setitem(builder.run.__globals__, "cuda_problem", lambda torch: "no nvcc")
    builder.run(command)
    (line,) = said
    assert line.startswith("protokern is installed WITHOUT its C++ library: '")
    assert "failed with exit code 1" in line
    assert "A C++20 compiler is needed (GCC 11 or newer). It works all the same, slower" in line
    assert "\n" not in line
    monkeypatch.setenv("PROTOKERN_BUILD", "cpu")
    with pytest.raises(SystemExit, match=r"^protokern: the C\+\+ library cannot be built: '"):
        builder.run(command)


def test_a_missing_tool_is_named(
    setup_program: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left_out = setup_program["LeftOut"]
    monkeypatch.setitem(sys.modules, "pybind11", None)
    with pytest.raises(left_out, match=r"^pybind11 was not found\. Run 'pip install pybind11', then install"):
        setup_program["pybind11_folder"]()
    with pytest.raises(left_out, match=r"/cmake does not run \(.*No such file.*\)\. Install it, then install"):
        setup_program["run"]([str(tmp_path / "cmake"), "--version"])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(left_out, match=r"^no C\+\+ compiler was found\. Install GCC 11 or newer, then install"):
        setup_program["torch_package"]()


def test_an_empty_CXX_names_no_compiler(backend: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not backend.has_compiler()
    make_command(tmp_path / "clang++", "exit 0")
    assert backend.has_compiler()
